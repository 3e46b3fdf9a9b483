"""Prints what arrives of others' tries, until try:over; does."""
import re
import socket

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
print("up", flush=True)
heard = set()
while b"over" not in heard:
    heard.update(re.findall(rb"try:([a-z-]+);", wire.recv(1 << 16)))
for name in sorted(heard - {b"over"}):
    print("heard", name.decode())
