<?php
/**
 * A queue as an application runs it: `--role push` pushes jobs, `--role work` is `queue:work --timeout=60 --sleep=0`
 * with the stock Illuminate\Queue\Worker as a daemon (popping by BLPOP with `--block-for 5`), started again when it
 * quits as Supervisor would. A job does nothing but note its run and delete itself.
 *
 * Each event is noted with its time (Unix, ms) and printed as one line of JSON at the end; the worker first works off
 * what is still queued, so that a job which has not run by then is lost.
 */

use Illuminate\Contracts\Debug\ExceptionHandler;
use Illuminate\Contracts\Events\Dispatcher;
use Illuminate\Queue\Events\Looping;
use Illuminate\Queue\Worker;
use Illuminate\Queue\WorkerOptions;

require __DIR__.'/bootstrap.php';
require_once 'Illuminate/Database/autoload.php'; // The worker asks it what a lost connection looks like.

/** Pushes until told to stop; every fifth job is delayed by a second. */
function push($queue, Diary $diary, string $run, float $rate): void
{
    for ($n = 0; ! $diary->stopped(); $n++) {
        $id = "$run:$n";
        $begin = microtime(true);
        try {
            $n % 5 === 4 ? $queue->later(1, 'job', ['id' => $id]) : $queue->push('job', ['id' => $id]);
            $diary->pushes[] = [$id, $diary->ms($begin), $diary->ms(), $n % 5 === 4];
        } catch (Throwable $e) {
            $diary->unknown[] = [$id, $diary->ms($begin), $diary->ms()];
            $diary->report('push', $e);
        }
        $diary->tell($n + 1);
        $rest = 1 / $rate - (microtime(true) - $begin);
        $rest > 0 && usleep((int) ($rest * 1e6));
    }
}

/** Lets the stock worker run until told to stop and nothing is queued, reserved or delayed. */
function work($app, $queue, Diary $diary, string $name, int $retryAfter): void
{
    $app->bind('job', fn () => new class($diary) {
        public function __construct(private Diary $diary)
        {
        }

        public function fire($job, array $data): void
        {
            $run = &$this->diary->runs[];
            $run = [$data['id'], $this->diary->ms(), null];
            $this->diary->tell(count($this->diary->runs));
            $this->diary->step = 'delete';
            $job->delete();
            $run[2] = $this->diary->ms();
            $this->diary->step = 'pop';
        }
    });
    $done = false;
    $deadline = null;
    $diary->step = 'pop';
    $loops = function (Looping $event) use ($queue, $diary, $retryAfter, &$done, &$deadline, &$worker) {
        $diary->tell(count($diary->runs));
        $diary->step = 'pop';
        if ($diary->stopped()) {
            $deadline ??= microtime(true) + $retryAfter + 10;
            $done = microtime(true) > $deadline || $queue->size() === 0;
            $worker->shouldQuit = $done;
        }

        return ! $done; // It pops only if this is not false.
    };
    while (! $done) {
        $worker = new Worker($app['queue'], new Events($loops), $diary, fn () => false);
        $worker->daemon('redis', $name, new WorkerOptions('default', 0, 512, 60, 0, 0));
        $diary->quits++;
    }
    $diary->left = $queue->size();
}

/** The application's log: what happened when. Laravel reports the worker's exceptions to it. */
final class Diary implements ExceptionHandler
{
    public array $pushes = [];      // [id, began, acknowledged, whether it is delayed]
    public array $unknown = [];     // [id, began, ended] of pushes that ended in an exception
    public array $runs = [];        // [id, began, its delete acknowledged or null]
    public array $exceptions = [];  // [when, step, class and message]
    public int $quits = 0;          // how often the worker ended its daemon
    public int $left = 0;           // what was queued, reserved or delayed at the end
    public string $step = '';
    private int $reconnects = 0;
    private ?array $sockets = null;
    private bool $stopped = false;
    private float $told = 0;

    public function __construct()
    {
        stream_set_blocking(STDIN, false);
    }

    public function ms(?float $time = null): int
    {
        return (int) (($time ?? microtime(true)) * 1000);
    }

    public function stopped(): bool
    {
        return $this->stopped = $this->stopped || (fread(STDIN, 4096) === '' && feof(STDIN));
    }

    /** A line of progress; and a look at the sockets, since both clients reconnect without a word. */
    public function tell(int $iterations): void
    {
        $sockets = sockets();
        if ($this->sockets) {
            $this->reconnects += count(array_diff($sockets, $this->sockets));
        }
        $this->sockets = $sockets;
        if (microtime(true) - $this->told > 0.05) {
            $this->told = microtime(true);
            echo "progress $iterations ".count($this->exceptions)."\n";
        }
    }

    public function finish(): void
    {
        echo json_encode([
            'pushes' => $this->pushes,
            'unknown' => $this->unknown,
            'runs' => $this->runs,
            'exceptions' => $this->exceptions,
            'quits' => $this->quits,
            'left' => $this->left,
            'reconnects' => $this->reconnects,
        ], JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE), "\n";
    }

    public function report($step, ?Throwable $e = null)
    {
        if ($step instanceof Throwable) {
            [$step, $e] = [$this->step, $step];
        }
        $this->exceptions[] = [$this->ms(), $step, get_class($e).': '.$e->getMessage()];
    }

    public function shouldReport(Throwable $e)
    {
        return true;
    }

    public function render($request, Throwable $e)
    {
    }

    public function renderForConsole($output, Throwable $e)
    {
    }
}

/** An event dispatcher with one listener, that of the worker's loop. */
final class Events implements Dispatcher
{
    public function __construct(private Closure $loops)
    {
    }

    public function until($event, $payload = [])
    {
        return $event instanceof Looping ? ($this->loops)($event) : null;
    }

    public function dispatch($event, $payload = [], $halt = false)
    {
    }

    public function listen($events, $listener = null)
    {
    }

    public function hasListeners($eventName)
    {
        return false;
    }

    public function subscribe($subscriber)
    {
    }

    public function push($event, $payload = [])
    {
    }

    public function flush($event)
    {
    }

    public function forget($event)
    {
    }

    public function forgetPushed()
    {
    }
}

$options = options(['role' => 'push', 'queue' => 'default', 'block-for' => null, 'retry-after' => 90]);
$diary = new Diary;
$app = application($options);
$queue = $app['queue']->connection();
$options['role'] === 'work' ? work($app, $queue, $diary, $options['queue'], (int) $options['retry-after'])
    : push($queue, $diary, $options['run'], (float) $options['rate']);
$diary->finish();
