"""A client of redis-py for the chaos suite: HOST PORT PASSWORD NAME PAUSE_MS; one JSON object for each operation.
HOST may be the path of a Unix socket.

It retries nothing by itself and ends when its stdin does.
"""

import json
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST, PORT, PASSWORD, NAME, PAUSE = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]) / 1000
SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) return ARGV[1]"
over = threading.Event()


def wait_for_end():
    sys.stdin.read()
    over.set()


def micros():
    return time.time_ns() // 1000


def tell(op, n, began, result, message=None, value=None):
    line = {"op": op, "n": n, "b": began, "e": micros(), "r": result}
    if message is not None:
        line["m"] = str(message)[:300]
    if value is not None:
        line["v"] = value
    print(json.dumps(line), flush=True)


def expect(found, expected):
    return ("ok", None, None) if found == expected else ("wrong", repr(found), None)


def ask(client, op, n):
    def value(letter):
        return f"{NAME}:{letter}:{n}="

    if op == "set":
        return expect(client.set(f"{NAME}:k:{n}", value("k")), True)
    if op == "get":
        found = client.get(f"{NAME}:k:{n}")
        return ("nil", None, None) if found is None else expect(found, value("k"))
    if op == "incr":
        return ("ok", None, client.incr(f"{NAME}:i"))
    if op == "push":
        client.rpush(f"{NAME}:l:{n // 64}", f"{NAME}:{n}")
        return ("ok", None, None)
    if op == "eval":
        return expect(client.eval(SCRIPT, 1, f"{NAME}:e:{n}", value("e")), value("e"))
    if op == "exec":
        with client.pipeline(transaction=True) as pipe:
            pipe.set(f"{NAME}:x:{n}", value("x"))
            pipe.incr(f"{NAME}:xc")
            done, counter = pipe.execute()
        return ("ok", None, counter) if done is True else ("wrong", repr(done), None)
    return expect(client.echo(f"{NAME}:{n}"), f"{NAME}:{n}")


def main():
    threading.Thread(target=wait_for_end, daemon=True).start()
    address = {"unix_socket_path": HOST} if HOST.startswith("/") else {"host": HOST, "port": PORT}
    client = redis.Redis(
        **address, password=PASSWORD, client_name=f"chaos-{NAME}", decode_responses=True,
        single_connection_client=False, max_connections=1, retry=Retry(NoBackoff(), 0),
        socket_timeout=40, socket_connect_timeout=40,
    )
    n, acknowledged = 0, None
    while not over.is_set():
        n += 1
        op, subject = ("set", "get", "incr", "push", "eval", "exec", "echo", "set")[n % 8], n
        if op == "get":
            op, subject = ("echo", n) if acknowledged is None else ("get", acknowledged)
        began = micros()
        try:
            result, message, value = ask(client, op, subject)
            if op == "set" and result == "ok":
                acknowledged = subject
            tell(op, subject, began, result, message, value)
        except redis.exceptions.TimeoutError:
            tell(op, subject, began, "hung")
        except redis.exceptions.ConnectionError as error:
            tell(op, subject, began, "cut", error)
        except redis.exceptions.ResponseError as error:
            tell(op, subject, began, "error", error)
        except redis.exceptions.RedisError as error:
            tell(op, subject, began, "error", f"{type(error).__name__} {error}")
        time.sleep(PAUSE)


main()
