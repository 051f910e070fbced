"""Carries Ethernet frames between two interfaces, each frame this many seconds later: a network that is far away.

usage: far.py INTERFACE INTERFACE SECONDS. Whole frames: a handshake is as far away as what follows it.
"""

import collections
import select
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, ETH_P_ALL = 263, 15, 3


def attach(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    # A header before each frame says what is left to hardware (checksums, segments); it is handed on with the frame.
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.bind((interface, 0))
    return end


ends = [attach(interface) for interface in sys.argv[1:3]]
delay = float(sys.argv[3])
frames = collections.deque()
print("ready", flush=True)
while True:
    wait = max(0, frames[0][0] - time.monotonic()) if frames else None
    for end in select.select(ends, [], [], wait)[0]:
        frame, source = end.recvfrom(1 << 17)
        if source[2] != socket.PACKET_OUTGOING:
            frames.append((time.monotonic() + delay, ends[1 - ends.index(end)], frame))
    while frames and frames[0][0] <= time.monotonic():
        _, end, frame = frames.popleft()
        end.send(frame)
