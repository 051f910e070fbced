<?php
// A client of phpredis for the chaos suite; see client.php.

declare(strict_types=1);

require __DIR__ . '/client.php';

$connect = function () use ($host, $port, $password, $name) {
    $client = new Redis();
    try {
        $client->connect($host, $host[0] === '/' ? 0 : (int) $port, 40.0, null, 0, 40.0);
        $client->auth($password);
        $client->client('setname', "chaos-$name");
    } catch (RedisException $error) {
        throw new Cut($error->getMessage());
    }
    return $client;
};

$ask = function ($client, string $op, int $n) use ($name): array {
    $value = fn (string $letter): string => "$name:$letter:$n=";
    // `false` stands for several errors; getLastError tells which.
    $or_error = function ($found) use ($client) {
        $error = $client->getLastError();
        if ($found === false && $error !== null) {
            $client->clearLastError();
            throw new ErrorReply($error);
        }
        return $found;
    };
    try {
        switch ($op) {
            case 'set':
                return expect($or_error($client->set("$name:k:$n", $value('k'))) === true ? 'OK' : 'no', 'OK');
            case 'get':
                $found = $or_error($client->get("$name:k:$n"));
                return $found === false ? ['nil', []] : expect($found, $value('k'));
            case 'incr':
                return ['ok', ['v' => $or_error($client->incr("$name:i"))]];
            case 'push':
                $length = $or_error($client->rPush("$name:l:" . intdiv($n, 64), "$name:$n"));
                return is_int($length) ? ['ok', []] : expect($length, 'a length');
            case 'eval':
                return expect($or_error($client->eval(SCRIPT, ["$name:e:$n", $value('e')], 1)), $value('e'));
            case 'exec':
                $client->multi();
                $client->set("$name:x:$n", $value('x'));
                $client->incr("$name:xc");
                $replies = $or_error($client->exec());
                if (!is_array($replies) || count($replies) !== 2) {
                    throw new WrongReply(var_export($replies, true));
                }
                return ['ok', ['v' => $replies[1]]];
            default:
                return expect($or_error($client->echo("$name:$n")), "$name:$n");
        }
    } catch (RedisException $error) {
        $words = explode(' ', $error->getMessage());
        // A server's error begins with a word in capitals; anything else is the connection's.
        if (preg_match('/^[A-Z]{3,}$/', $words[0])) {
            throw new ErrorReply($error->getMessage());
        }
        $client->close();
        throw new Cut($error->getMessage());
    }
};

run($connect, $ask, (int) $pause);
