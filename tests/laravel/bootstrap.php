<?php
/**
 * An Illuminate container (8 to 13) as a stock Laravel application has it (RedisManager, Cache, Queue, Session; cache on
 * DB 1, everything else on DB 0), and the tally in which the scripts beside this one note what happened to them.
 *
 * No class of Laravel, predis or phpredis is changed or extended here: what the scripts see, an application sees.
 */

use Illuminate\Cache\CacheManager;
use Illuminate\Container\Container;
use Illuminate\Queue\QueueManager;
use Illuminate\Queue\QueueServiceProvider;
use Illuminate\Redis\RedisManager;
use Illuminate\Session\SessionManager;
use Illuminate\Support\Arr;
use Illuminate\Support\Fluent;

foreach (['Container', 'Support', 'Redis', 'Cache', 'Queue', 'Session'] as $package) {
    require_once "Illuminate/$package/autoload.php";
}
require_once 'Predis/autoload.php';

// As Laravel's own HandleExceptions: a warning or a notice is an exception.
error_reporting(E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED);
set_error_handler(function ($level, $message, $file, $line) {
    if (error_reporting() & $level) {
        throw new ErrorException($message, 0, $level, $file, $line);
    }
});

/** Laravel's stock REDIS_PREFIX and CACHE_PREFIX. */
const REDIS_PREFIX = 'laravel_database_';
const CACHE_PREFIX = 'laravel_cache';

/** `--name value`, `--name=value` or `--flag`, over these defaults; the password may come from REDIS_PASSWORD. */
function options(array $more = []): array
{
    $options = $more + [
        'client' => 'predis',
        'host' => '127.0.0.1',
        'port' => 6379,
        'password' => getenv('REDIS_PASSWORD') ?: null,
        'rate' => 200,      // iterations per second, at most
        'seconds' => 0,     // 0: until stdin is closed or SIGTERM comes
        'run' => bin2hex(random_bytes(4)),
    ];
    $arguments = array_slice($_SERVER['argv'], 1);
    while ($arguments) {
        [$name, $value] = explode('=', array_shift($arguments), 2) + [1 => null];
        $name = substr($name, 2);
        if (! array_key_exists($name, $options)) {
            fwrite(STDERR, "unknown option --$name; known: --".implode(', --', array_keys($options))."\n");
            exit(64);
        }
        $options[$name] = $value ?? (is_bool($options[$name]) ? true : array_shift($arguments));
    }
    if (! in_array($options['client'], ['predis', 'phpredis'], true)) {
        fwrite(STDERR, "--client is predis or phpredis, not {$options['client']}\n");
        exit(64);
    }
    if ($options['client'] === 'phpredis' && ! extension_loaded('redis')) {
        fwrite(STDERR, "the PHP extension redis (package php-redis) is missing\n");
        exit(69);
    }

    return $options;
}

/** The application: config/database.php, cache.php, queue.php and session.php of Laravel with the redis drivers. */
function application(array $options): Container
{
    $server = ['host' => $options['host'], 'port' => (int) $options['port'], 'password' => $options['password']];
    $app = new Container;
    $session = ['driver' => 'redis', 'lifetime' => 120, 'connection' => null, 'store' => null, 'cookie' => 'laravel_session',
        'encrypt' => false];
    $app->instance('config', new Fluent([
        'cache.default' => 'redis',
        'cache.prefix' => CACHE_PREFIX,
        'cache.stores.redis' => ['driver' => 'redis', 'connection' => 'cache', 'lock_connection' => 'default'],
        'queue.default' => 'redis',
        'queue.connections.redis' => [
            'driver' => 'redis',
            'connection' => 'default',
            'queue' => $options['queue'] ?? 'default',
            'retry_after' => (int) ($options['retry-after'] ?? 90),
            'block_for' => isset($options['block-for']) ? (int) $options['block-for'] : null,
        ],
        // Laravel 13 looks inside, those before it for the whole name.
        'session' => $session,
    ] + Arr::dot(['session' => $session])));
    $app->instance('redis', new RedisManager($app, $options['client'], [
        'options' => ['cluster' => 'redis', 'prefix' => REDIS_PREFIX],
        'default' => $server + ['database' => 0],
        'cache' => $server + ['database' => 1],
    ]));
    $app->instance('cache', new CacheManager($app));
    $app->singleton('queue', function ($app) {
        $manager = new QueueManager($app);
        (new QueueServiceProvider($app))->registerConnectors($manager);

        return $manager;
    });
    $app->singleton('session', fn ($app) => new SessionManager($app));

    return $app;
}

/** On each DB a key `where` with another value, so that a connection that forgot its SELECT betrays itself. */
function plantDatabaseMarks(Container $app): void
{
    $app['redis']->connection('default')->set('where', 'db0');
    $app['redis']->connection('cache')->set('where', 'db1');
}

function checkDatabases(Container $app, Tally $tally): void
{
    foreach (['default' => 'db0', 'cache' => 'db1'] as $name => $expected) {
        $found = $tally->step("get where ($name)", fn () => $app['redis']->connection($name)->get('where'));
        if (in_array($found, ['db0', 'db1'], true) && $found !== $expected) {
            $tally->wrongDb++;
        }
        $tally->expect("where ($name)", $expected, $found);
    }
}

/** The sockets of this process, by their inodes. */
function sockets(): array
{
    $sockets = [];
    foreach (@scandir('/proc/self/fd') ?: [] as $fd) {
        $target = @readlink("/proc/self/fd/$fd");
        if ($target !== false && str_starts_with($target, 'socket:')) {
            $sockets[] = $target;
        }
    }

    return $sockets;
}

/** What happened: acknowledged writes, exceptions, wrong values, stalls. `finish` prints it as one line of JSON. */
final class Tally
{
    public int $wrongDb = 0;
    private int $iterations = 0;
    private int $exceptions = 0;
    private array $first = [];
    private array $kinds = [];
    private array $wrong = ['count' => 0, 'first' => []];
    private array $missing = ['count' => 0, 'first' => []];
    private array $acknowledged = [];
    private int $writes = 0;
    private array $counters = [];
    private float $longest = 0;
    private float $lastTook = 0;
    private int $reconnects = 0;
    private ?array $sockets = null;
    private ?Throwable $seen = null;
    private bool $stopped = false;
    private float $started;
    private float $told = 0;

    public function __construct(private array $options)
    {
        $this->started = microtime(true);
        stream_set_blocking(STDIN, false);
        if (function_exists('pcntl_async_signals')) {
            pcntl_async_signals(true);
            foreach ([SIGTERM, SIGINT] as $signal) {
                pcntl_signal($signal, fn () => $this->stopped = true);
            }
        }
    }

    /** Runs `$iteration` with a rising number until told to stop. An exception ends that iteration only. */
    public function loop(callable $iteration): void
    {
        while (! $this->stopped()) {
            $this->once(fn () => $iteration($this->iterations));
            $this->iterations++;
            $this->tell();
            $rest = 1 / max(1, min(200, (float) $this->options['rate'])) - $this->lastTook;
            if ($rest > 0) {
                usleep((int) ($rest * 1e6));
            }
        }
    }

    /** One timed piece of work; false if it ended in an exception. */
    public function once(callable $work): bool
    {
        $begin = microtime(true);
        $done = false;
        try {
            $work();
            $done = true;
        } catch (Throwable $e) {
            $this->note('outside a step', $e);
            $this->tell();
        }
        $this->lastTook = microtime(true) - $begin;
        $this->longest = max($this->longest, $this->lastTook);
        if (! $done) {
            usleep(100000); // Laravel's worker sleeps a second after an exception; a tenth keeps tests short.
        }

        return $done;
    }

    /** One call of the framework. An exception is noted under the step's name and goes on to end the iteration. */
    public function step(string $name, callable $call)
    {
        try {
            return $call();
        } catch (Throwable $e) {
            $this->note($name, $e);
            throw $e;
        }
    }

    /** A write of `$raw` that the framework reports by true; the checker will look for it in DB `$db`. */
    public function write(string $name, int $db, string $key, string $raw, callable $call): void
    {
        unset($this->acknowledged["$db $key"]); // Until it is acknowledged, the key may hold either value.
        $answer = $this->step($name, $call);
        if ($this->expect("$name $key", true, $answer)) {
            $this->acknowledge($db, $key, $raw);
        }
    }

    public function acknowledge(int $db, string $key, string $raw): void
    {
        $this->writes++;
        $this->acknowledged["$db $key"] = [$db, $key, $raw, (int) (microtime(true) * 1000)];
    }

    /** The key is about to change in a way the checker shall not look at. */
    public function forget(int $db, string $key): void
    {
        unset($this->acknowledged["$db $key"]);
    }

    /** An INCRBY 1 whose answer must go on from the last one by one, or by one more for each lost reply. */
    public function count(string $name, int $db, string $key, callable $call): void
    {
        $counter = &$this->counters[$key];
        $counter ??= ['db' => $db, 'key' => $key, 'acknowledged' => 0, 'unknown' => 0, 'last' => 0, 'slack' => 0];
        try {
            $value = $this->step($name, $call);
        } catch (Throwable $e) {
            $counter['unknown']++;
            $counter['slack']++;
            throw $e;
        }
        $this->writes++;
        $counter['acknowledged']++;
        if (! is_int($value) || $value > $counter['last'] + 1 + $counter['slack']) {
            $this->wrong("$name $key", "at most ".($counter['last'] + 1 + $counter['slack']), $value);
        } elseif ($value <= $counter['last']) {
            $this->missing("$name $key", "more than {$counter['last']}", $value);
        }
        $counter['last'] = is_int($value) ? $value : $counter['last'];
        $counter['slack'] = 0;
    }

    /**
     * Null or false where something is expected is "missing" (a master that died may have taken an acknowledged
     * write with it), as is a value in `$older`; anything else that differs is "wrong": nobody ever wrote it.
     */
    public function expect(string $what, $expected, $found, array $older = []): bool
    {
        if ($found === $expected) {
            return true;
        }
        $gone = $found === null || $found === false || in_array($found, $older, true);
        $gone ? $this->missing($what, $expected, $found) : $this->wrong($what, $expected, $found);

        return false;
    }

    public function wrong(string $what, $expected, $found): void
    {
        $this->wrong['count']++;
        $this->sample($this->wrong['first'], compact('what', 'expected', 'found'));
    }

    public function missing(string $what, $expected, $found): void
    {
        $this->missing['count']++;
        $this->sample($this->missing['first'], compact('what', 'expected', 'found'));
    }

    /** Counts sockets that were not there at the last look: predis and phpredis both reconnect without a word. */
    public function watchSockets(bool $anew = false): void
    {
        $sockets = sockets();
        if (! $anew && $this->sockets !== null) {
            $this->reconnects += count(array_diff($sockets, $this->sockets));
        }
        $this->sockets = $sockets;
    }

    public function stopped(): bool
    {
        if (! $this->stopped) {
            $late = $this->options['seconds'] > 0 && microtime(true) - $this->started > $this->options['seconds'];
            $this->stopped = $late || (fread(STDIN, 4096) === '' && feof(STDIN));
        }

        return $this->stopped;
    }

    public function finish(array $more = []): void
    {
        echo json_encode($more + [
            'client' => $this->options['client'],
            'run' => $this->options['run'],
            'iterations' => $this->iterations,
            'seconds' => round(microtime(true) - $this->started, 3),
            'exceptions' => ['count' => $this->exceptions, 'first' => $this->first, 'kinds' => (object) $this->kinds],
            'wrong' => $this->wrong,
            'missing' => $this->missing,
            'wrong_db' => $this->wrongDb,
            'writes' => $this->writes,
            'acknowledged' => array_values($this->acknowledged),
            'counters' => array_values($this->counters),
            'longest_ms' => (int) round($this->longest * 1000),
            'reconnects' => $this->reconnects,
        ], JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_PARTIAL_OUTPUT_ON_ERROR), "\n";
    }

    private function note(string $step, Throwable $e): void
    {
        if ($e === $this->seen) {
            return; // An inner step has noted it.
        }
        $this->seen = $e;
        $this->exceptions++;
        $class = get_class($e);
        $message = $e->getMessage();
        $this->sample($this->first, ['at' => (int) (microtime(true) * 1000)] + compact('step', 'class', 'message'));
        $kind = "$step: $class: $message";
        $this->kinds[$kind] = ($this->kinds[$kind] ?? 0) + 1;
    }

    private function sample(array &$list, array $entry): void
    {
        if (count($list) < 5) {
            $list[] = $entry;
        }
    }

    /** A line of progress, so that whoever started this can wait for a number instead of sleeping. */
    private function tell(): void
    {
        $now = microtime(true);
        if ($now - $this->told > 0.05) {
            $this->told = $now;
            echo "progress {$this->iterations} {$this->exceptions}\n";
        }
    }
}
