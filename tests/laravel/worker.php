<?php
/**
 * Worker style: one long-lived application. Jobs are pushed, delayed, popped, released and deleted by the stock
 * RedisQueue; beside that it uses the cache and counters, each Laravel connection keeping its socket for ever.
 *
 * `--role push` only pushes, `--role work` only pops, `both` (default) does both; `--block-for 5` pops by BLPOP.
 * At the end what is still queued is worked off, so that a job which is missing then is lost.
 */

require __DIR__.'/bootstrap.php';

$options = options(['role' => 'both', 'queue' => 'default', 'block-for' => null, 'retry-after' => 90]);
$tally = new Tally($options);
$app = application($options);
$run = $options['run'];
$raw = fn ($key) => REDIS_PREFIX.CACHE_PREFIX.":$key";
$jobs = new Jobs($tally, $run);
$pushes = $options['role'] !== 'work';
$works = $options['role'] !== 'push';

$tally->once(fn () => $tally->step('connect', fn () => plantDatabaseMarks($app)));
$tally->watchSockets();

$tally->loop(function (int $n) use ($app, $tally, $jobs, $run, $raw, $pushes, $works) {
    try {
        $queue = $app['queue']->connection();
        $cache = $app['cache']->store();
        if ($pushes) {
            $jobs->push($queue, $n);
        }
        if ($works) {
            $jobs->work($queue);
        }
        checkDatabases($app, $tally);
        $key = "work:$run:$n";
        $tally->expect("cache remember $key", "w$n", $tally->step('cache remember',
            fn () => $cache->remember($key, 3600, fn () => "w$n")));
        $tally->acknowledge(1, $raw($key), serialize("w$n"));
        $tally->expect("cache get $key", "w$n", $tally->step('cache get', fn () => $cache->get($key)));
        $tally->count('cache increment', 1, $raw("done:$run"), fn () => $cache->increment("done:$run"));
    } finally {
        $tally->watchSockets();
    }
});

if ($works) {
    // Delayed jobs, and those that were popped by a lost reply, come back within retry_after.
    $queue = $app['queue']->connection();
    $until = microtime(true) + (int) $options['retry-after'] + 5;
    $left = 1;
    while ($left > 0 && microtime(true) < $until) {
        $tally->once(function () use ($queue, $tally, $jobs, &$left) {
            while ($jobs->work($queue)) {
            }
            $left = $tally->step('queue size', fn () => $queue->size());
        });
        usleep(20000);
    }
}
$tally->watchSockets();
$tally->finish($jobs->result($options['role']));

/** Which jobs were pushed, popped, released and deleted, each with the time of its last acknowledged step. */
final class Jobs
{
    private array $pushed = [];     // id => unix ms of the acknowledgement
    private array $maybe = [];      // id => true: the reply to its push was lost
    private array $ran = [];        // id => how often it was popped
    private array $allowed = [];    // id => how often it may have been popped
    private array $last = [];       // id => unix ms of its last acknowledged release or delete
    private int $popsUnknown = 0;
    private int $deleted = 0;
    private int $released = 0;
    private array $strange = [];

    public function __construct(private Tally $tally, private string $run)
    {
    }

    public function push($queue, int $n): void
    {
        $id = "{$this->run}:$n";
        $this->maybe[$id] = true;
        $n % 5 === 4
            ? $this->tally->step('queue later', fn () => $queue->later(1, 'job', ['id' => $id]))
            : $this->tally->step('queue push', fn () => $queue->push('job', ['id' => $id]));
        unset($this->maybe[$id]);
        $this->pushed[$id] = $this->now();
    }

    /** Pops one job, releases every seventh at its first run, deletes the others. False: the queue gave none. */
    public function work($queue): bool
    {
        try {
            $job = $this->tally->step('queue pop', fn () => $queue->pop());
        } catch (Throwable $e) {
            $this->popsUnknown++;
            throw $e;
        }
        if ($job === null) {
            return false;
        }
        $id = $job->payload()['data']['id'] ?? '?';
        $this->ran[$id] = ($this->ran[$id] ?? 0) + 1;
        $this->allowed[$id] ??= 1;
        if ($this->ran[$id] > $this->allowed[$id]) {
            $this->strange[] = ['id' => $id, 'ran' => $this->ran[$id], 'at' => $this->last[$id] ?? 0];
        }
        if ($this->ran[$id] === 1 && crc32($id) % 7 === 0) {
            $this->allowed[$id]++;
            $this->tally->step('queue release', fn () => $job->release(0));
            $this->released++;
        } else {
            try {
                $this->tally->step('queue delete', fn () => $job->delete());
            } catch (Throwable $e) {
                $this->allowed[$id]++; // It comes back after retry_after if the delete did not run.
                throw $e;
            }
            $this->deleted++;
        }
        $this->last[$id] = $this->now();

        return true;
    }

    /** A pusher has lost nothing and a worker knows no pushes: then `pushed_ids` and `ran_ids` are for the caller. */
    public function result(string $role): array
    {
        $lost = $role === 'both' ? array_diff_key($this->pushed, $this->ran) : [];
        $strangers = $role === 'both' ? array_diff_key($this->ran, $this->pushed, $this->maybe) : [];

        return [
            'jobs' => [
                'pushed' => count($this->pushed),
                'pushes_unknown' => count($this->maybe),
                'ran' => count($this->ran),
                'pops_unknown' => $this->popsUnknown,
                'released' => $this->released,
                'deleted' => $this->deleted,
                'lost' => array_map(fn ($id) => ['id' => (string) $id, 'at' => $lost[$id]], array_keys($lost)),
                'twice' => $this->strange,
                'never_pushed' => array_map('strval', array_keys($strangers)),
            ] + ($role === 'both' ? [] : [
                'pushed_ids' => array_map('strval', array_keys($this->pushed)),
                'ran_ids' => array_map('strval', array_keys($this->ran)),
            ]),
        ];
    }

    private function now(): int
    {
        return (int) (microtime(true) * 1000);
    }
}
