<?php
/** What the tests start beside `queue:work`; each goes on until SIGTERM. */

use App\Diary;
use App\Exercise;
use App\Work;
use Illuminate\Support\Facades\Artisan;
use Illuminate\Support\Facades\Queue;
use Illuminate\Support\Facades\Redis;

Artisan::command('push {run} {--rate=20}', function (string $run) {
    Diary::until(function (int $n) use ($run) {
        $id = "$run:$n";
        $begin = Diary::now();
        try {
            $n % 5 === 4 ? Queue::later(1, new Work($id)) : Queue::push(new Work($id));
            Diary::note('pushed', $id, $begin, Diary::now());
        } catch (Throwable $e) {
            Diary::note('unknown', $id, $begin, Diary::now());
            Diary::exception('push', $e);
        }
    }, (float) $this->option('rate'));
});

Artisan::command('exercise {run} {--rate=5}', function (string $run) {
    $exercise = new Exercise($run);
    Diary::until(fn (int $n) => $exercise->pass($n), (float) $this->option('rate'));
});

/** What a broadcasting server does: one connection that listens for ever, and asks again when it is lost. */
Artisan::command('listen', function () {
    Diary::until(function () {
        try {
            Redis::connection()->psubscribe(['*said-'.config('queue.connections.redis.queue')], fn ($message) => Diary::note('heard', json_decode($message)->data->n, Diary::now()));
        } catch (Throwable $e) {
            Diary::exception('listen', $e);
        }
    }, 1);
});
