<?php
// What the PHP clients of the chaos suite share: the loop, the judgement, one JSON object for each operation.
// HOST PORT PASSWORD NAME PAUSE_MS are on the command line, HOST may be the path of a Unix socket; it ends when its
// stdin does.

declare(strict_types=1);

[, $host, $port, $password, $name, $pause] = $argv;
const SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]";
const OPS = ['set', 'get', 'incr', 'push', 'eval', 'exec', 'echo', 'set'];

/** An error reply of the server, or of the proxy. */
final class ErrorReply extends Exception
{
}

/** The connection ended. */
final class Cut extends Exception
{
}

/** An answer that is not the one it must be. */
final class WrongReply extends Exception
{
}

function micros(): int
{
    return (int) (microtime(true) * 1e6);
}

function tell(string $op, int $n, int $began, string $result, array $more = []): void
{
    echo json_encode(['op' => $op, 'n' => $n, 'b' => $began, 'e' => micros(), 'r' => $result] + $more), "\n";
}

/** @param mixed $found */
function expect($found, string $expected): array
{
    if ($found !== $expected) {
        throw new WrongReply(substr(var_export($found, true), 0, 300));
    }
    return ['ok', []];
}

function is_over(): bool
{
    $read = [STDIN];
    $write = $except = null;
    return stream_select($read, $write, $except, 0, 0) > 0 && (fread(STDIN, 1) === '' || feof(STDIN));
}

/**
 * @param callable(): object $connect
 * @param callable(object, string, int): array $ask
 */
function run(callable $connect, callable $ask, int $pause): void
{
    $client = null;
    $acknowledged = null;
    for ($n = 1; !is_over(); $n++) {
        [$op, $subject] = [OPS[$n % 8], $n];
        if ($op === 'get') {
            [$op, $subject] = $acknowledged === null ? ['echo', $n] : ['get', $acknowledged];
        }
        $began = micros();
        try {
            $client ??= $connect();
            [$result, $more] = $ask($client, $op, $subject);
            if ($op === 'set' && $result === 'ok') {
                $acknowledged = $subject;
            }
            tell($op, $subject, $began, $result, $more);
        } catch (ErrorReply $error) {
            tell($op, $subject, $began, 'error', ['m' => $error->getMessage()]);
        } catch (WrongReply $wrong) {
            tell($op, $subject, $began, 'wrong', ['m' => $wrong->getMessage()]);
        } catch (Cut $cut) {
            tell($op, $subject, $began, 'cut', ['m' => $cut->getMessage()]);
            $client = null;
        }
        usleep($pause * 1000);
    }
}
