<?php

namespace App;

use Throwable;

/** What happened when, a line of JSON for each event, in the file that DIARY names. Times are Unix, ms. */
final class Diary
{
    public static function now(): int
    {
        return (int) (microtime(true) * 1000);
    }

    public static function note(string $kind, ...$what): void
    {
        $line = json_encode([$kind, ...$what], JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
        file_put_contents(getenv('DIARY') ?: dirname(__DIR__).'/storage/diary', "$line\n", FILE_APPEND | LOCK_EX);
    }

    public static function exception(string $where, Throwable $e): void
    {
        self::note('exception', $where, self::now(), get_class($e).': '.$e->getMessage());
    }

    /** Calls `$work` with a rising number, at most `$rate` times a second, until SIGTERM. */
    public static function until(callable $work, float $rate): void
    {
        $stopped = false;
        pcntl_async_signals(true);
        pcntl_signal(SIGTERM, function () use (&$stopped) {
            $stopped = true;
        });
        for ($n = 0; ! $stopped; $n++) {
            $begin = microtime(true);
            $work($n);
            $rest = 1 / $rate - (microtime(true) - $begin);
            $rest > 0 && ! $stopped && usleep((int) ($rest * 1e6));
        }
    }
}
