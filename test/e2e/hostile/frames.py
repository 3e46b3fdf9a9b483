"""Sends frames that no kernel would, each with its name in it: try:NAME;"""
import os
import socket
import struct


def mac(name):
    return bytes.fromhex(os.environ[name].replace(":", ""))


def address(name):
    return socket.inet_aton(os.environ[name])


def udp(sender, receiver, port, text):
    """A packet with a header that holds, and no checksum in UDP's."""
    data = struct.pack("!HHHH", 4096, port, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0, 64, 17, 0) + sender + receiver
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", total) + head[12:] + data


def arp(op, sender_mac, sender, target_mac, target, text):
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, op) + sender_mac + sender + target_mac + target + text


def advertisement(text):
    """A router's, which would make its receivers use the sender."""
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0xFFFF, 0, 0) + text
    head = struct.pack("!IHBB", 6 << 28, len(body), 58, 255)
    return head + socket.inet_pton(socket.AF_INET6, "fe80::66") + socket.inet_pton(socket.AF_INET6, "ff02::1") + body


own_mac, other_mac, gateway_mac = mac("OWN_MAC"), mac("OTHER_MAC"), mac("GATEWAY_MAC")
own, other, gateway = address("OWN"), address("OTHER"), address("GATEWAY")
everybody, nobody, all_nodes = b"\xff" * 6, b"\x02\x09\x09\x09\x09\x09", b"\x33\x33\x00\x00\x00\x01"
IPV4, ARP, VLAN, IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))


def send(receiver, sender, kind, payload):
    wire.send(receiver + sender + struct.pack("!H", kind) + payload)


def named(name):
    return b"try:" + name.encode() + b";"


send(gateway_mac, other_mac, IPV4, udp(other, gateway, 9, named("other-machine")))
send(gateway_mac, nobody, IPV4, udp(own, gateway, 9, named("nobodys-mac")))
send(gateway_mac, own_mac, IPV4, udp(other, gateway, 9, named("others-address")))
send(gateway_mac, own_mac, IPV4, udp(gateway, gateway, 9, named("gateways-address")))
send(everybody, own_mac, ARP, arp(2, own_mac, gateway, other_mac, other, named("arp-as-gateway")))
send(gateway_mac, own_mac, ARP, arp(2, own_mac, other, gateway_mac, gateway, named("arp-as-other")))
send(everybody, own_mac, IPV4, udp(gateway, b"\xff" * 4, 68, named("dhcp-as-gateway")))
send(everybody, own_mac, VLAN, struct.pack("!HH", 5, IPV4) + udp(other, gateway, 9, named("vlan")))
send(all_nodes, own_mac, IPV6, advertisement(named("router")))
for n in range(300):
    send(gateway_mac, b"\x02\x01\x00\x00" + struct.pack("!H", n), IPV4, udp(own, gateway, 9, b""))

call = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
call.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
call.sendto(b"hello", ("255.255.255.255", 6000))
call.sendto(b"hello", ("224.0.0.251", 5353))
