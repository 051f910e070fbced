<?php

namespace App;

use Closure;
use Illuminate\Support\Facades\Bus;
use Illuminate\Support\Facades\Cache;
use Illuminate\Support\Facades\RateLimiter;
use Illuminate\Support\Facades\Schema;
use Throwable;

/** One pass through what Laravel does with Redis. Each step says what it expects; a pass ends at its first exception. */
final class Exercise
{
    private int $least = 0; // What the counter must have reached.
    private int $unknown = 0; // Increments whose fate is unknown.

    public function __construct(private string $run)
    {
        Schema::hasTable('job_batches') || Schema::create('job_batches', function ($table) {
            $table->string('id')->primary();
            $table->string('name');
            $table->integer('total_jobs');
            $table->integer('pending_jobs');
            $table->integer('failed_jobs');
            $table->longText('failed_job_ids');
            $table->mediumText('options')->nullable();
            $table->integer('cancelled_at')->nullable();
            $table->integer('created_at');
            $table->integer('finished_at')->nullable();
        });
    }

    public function pass(int $n): void
    {
        $begin = Diary::now();
        try {
            foreach (['locks', 'counter', 'flexible', 'tags', 'limiter', 'many', 'session', 'broadcast', 'unique', 'batch'] as $step) {
                $this->step = $step;
                $this->$step("{$this->run}:$n", $n);
            }
            Diary::note('passed', $n, $begin, Diary::now());
        } catch (Throwable $e) {
            Diary::exception($this->step, $e);
            usleep(100000);
        }
    }

    private string $step = '';

    private function locks(string $id): void
    {
        $lock = Cache::lock("lock:$id", 60);
        $this->expect(true, $lock->get());
        $this->expect(false, Cache::lock("lock:$id", 60)->get());
        $this->expect(true, $lock->release());
        $this->expect(true, Cache::lock("lock:$id", 60)->block(3, fn () => true));
    }

    private function counter(): void
    {
        $this->unknown++;
        $value = Cache::increment("counter:{$this->run}");
        $this->unknown--;
        // Not above what was asked for, and not below what was acknowledged.
        $most = $this->least + 1 + $this->unknown;
        $this->expect(true, $value > $this->least && $value <= $most, "counter {$this->least} < $value <= $most");
        $this->least = $value;
        $this->unknown = 0;
    }

    private function flexible(string $id): void
    {
        $this->expect("of $id", Cache::flexible("flexible:$id", [5, 600], fn () => "of $id"));
        $this->expect("of $id", Cache::flexible("flexible:$id", [5, 600], fn () => 'another'));
    }

    private function tags(string $id): void
    {
        Cache::tags(['pages', $id])->put('page', "of $id", 600);
        $this->expect("of $id", Cache::tags(['pages', $id])->get('page'));
        Cache::tags([$id])->flush();
        $this->expect(null, Cache::tags(['pages', $id])->get('page'));
    }

    private function limiter(string $id): void
    {
        $attempt = fn () => RateLimiter::attempt("limit:$id", 2, fn () => true, 600);
        $this->expect([true, true, false], [$attempt(), $attempt(), $attempt()]);
        $this->expect(0, RateLimiter::remaining("limit:$id", 2));
    }

    private function many(string $id): void
    {
        $values = ["a:$id" => 'a', "b:$id" => ['b']];
        $this->expect(true, Cache::putMany($values, 600));
        $this->expect($values, Cache::many(array_keys($values)));
    }

    private function session(string $id, int $n): void
    {
        $open = function (Closure $work) use ($id) {
            $session = app('session')->driver();
            $session->flush();
            $session->setId(substr(sha1($id), 0, 40));
            $session->start();

            return $work($session);
        };
        $open(fn ($session) => [$session->put('n', $n), $session->save()]);
        $this->expect($n, $open(fn ($session) => $session->get('n')));
    }

    private function broadcast(string $id, int $n): void
    {
        event(new Said($n));
        Diary::note('said', $n, Diary::now());
    }

    private function unique(string $id): void
    {
        $this->dispatched(["unique:$id"], function () use ($id) {
            // Both under one lock of ours: the second is dropped while the first still waits, or runs after it.
            dispatch(new OnlyOnce("unique:$id"))->delay(2);
            dispatch(new OnlyOnce("unique:$id"))->delay(2);
        });
    }

    private function batch(string $id, int $n): void
    {
        if ($n % 5 > 0) {
            return;
        }
        $jobs = ["batch:$id:0", "batch:$id:1"];
        $this->dispatched($jobs, fn () => Bus::batch(array_map(fn ($job) => new Work($job), $jobs))
            ->then(fn () => Diary::note('batched', $id, Diary::now()))->dispatch());
        Diary::note('batch', $id, Diary::now());
    }

    private function dispatched(array $jobs, Closure $dispatch): void
    {
        $begin = Diary::now();
        try {
            $dispatch();
        } catch (Throwable $e) {
            foreach ($jobs as $job) {
                Diary::note('unknown', $job, $begin, Diary::now());
            }
            throw $e;
        }
        foreach ($jobs as $job) {
            Diary::note('pushed', $job, $begin, Diary::now());
        }
    }

    private function expect($expected, $found, ?string $what = null): void
    {
        if ($expected !== $found) {
            Diary::note('wrong', $this->step, Diary::now(), $what ?? [$expected, $found]);
        }
    }
}
