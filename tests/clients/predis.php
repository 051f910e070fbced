<?php
// A client of predis for the chaos suite; see client.php.

declare(strict_types=1);

require 'Predis/Autoloader.php';
require __DIR__ . '/client.php';
Predis\Autoloader::register();

$connect = function () use ($host, $port, $password, $name) {
    $address = $host[0] === '/' ? ['scheme' => 'unix', 'path' => $host] : ['host' => $host, 'port' => (int) $port];
    $client = new Predis\Client($address + ['password' => $password, 'read_write_timeout' => 40, 'timeout' => 40]);
    try {
        $client->client('setname', "chaos-$name");
    } catch (Predis\PredisException $error) {
        throw new Cut(get_class($error) . ': ' . $error->getMessage());
    }
    return $client;
};

$ask = function ($client, string $op, int $n) use ($name): array {
    $value = fn (string $letter): string => "$name:$letter:$n=";
    try {
        switch ($op) {
            case 'set':
                return expect((string) $client->set("$name:k:$n", $value('k')), 'OK');
            case 'get':
                $found = $client->get("$name:k:$n");
                return $found === null ? ['nil', []] : expect($found, $value('k'));
            case 'incr':
                return ['ok', ['v' => $client->incr("$name:i")]];
            case 'push':
                $client->rpush("$name:l:" . intdiv($n, 64), ["$name:$n"]);
                return ['ok', []];
            case 'eval':
                return expect($client->eval(SCRIPT, 1, "$name:e:$n", $value('e')), $value('e'));
            case 'exec':
                $replies = $client->transaction(function ($transaction) use ($name, $n, $value) {
                    $transaction->set("$name:x:$n", $value('x'));
                    $transaction->incr("$name:xc");
                });
                if (count($replies ?? []) !== 2) {
                    throw new WrongReply(var_export($replies, true));
                }
                return ['ok', ['v' => $replies[1]]];
            default:
                return expect($client->echo("$name:$n"), "$name:$n");
        }
    } catch (Predis\Connection\ConnectionException $error) {
        throw new Cut($error->getMessage());
    } catch (Predis\Response\ServerException $error) {
        throw new ErrorReply($error->getMessage());
    } catch (Predis\PredisException $error) {
        throw new ErrorReply(get_class($error) . ' ' . $error->getMessage());
    }
};

run($connect, $ask, (int) $pause);
