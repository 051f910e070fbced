#!/usr/bin/env python3
"""Measures what an idle client costs switchmaster: resident memory before and after opening 5,000 connections,
without a request, and again after AUTH (with a password), SELECT and GET on each.

    contrib/idle-memory.py PORT PID [PASSWORD]

Measure a process that was just started: memory that was used before is used again.
"""
import re
import resource
import socket
import sys
import time

CLIENTS = 5000


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) * 1024


def ask(client, *words):
    request = b"*%d\r\n" % len(words)
    for word in words:
        request += b"$%d\r\n%s\r\n" % (len(word), word)
    client.sendall(request)
    reply = client.recv(4096)
    if not reply or reply.startswith(b"-"):
        sys.exit(f"{words[0].decode()}: {reply.decode().strip() or 'the connection was closed'}")


def main():
    port, pid = int(sys.argv[1]), int(sys.argv[2])
    password = sys.argv[3].encode() if len(sys.argv) > 3 else None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def greet(client):
        if password:
            ask(client, b"AUTH", password)
        ask(client, b"SELECT", b"1")
        ask(client, b"GET", b"key")

    with socket.create_connection(("127.0.0.1", port)) as first:
        greet(first)
    time.sleep(1)
    before = resident(pid)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
    time.sleep(3)
    print(f"connected: {(resident(pid) - before) // CLIENTS} bytes each")
    for client in clients:
        greet(client)
    time.sleep(3)
    print(f"after a request: {(resident(pid) - before) // CLIENTS} bytes each")


main()
