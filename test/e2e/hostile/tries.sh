# What a hostile guest tries with the usual tools. Each section's output is the
# tool's own.
scan() { nmap -n -Pn -oG - --max-retries 2 --max-rtt-timeout 3s "$@"; }

echo "== up"
nmap -n -sn -oG - "$RANGE"

echo "== arping"
arping -c 2 -w 3 -I eth0 "$OTHER"

echo "== across the bridge"
ip neigh replace "$OTHER" lladdr "$OTHER_MAC" dev eth0 nud permanent
scan --disable-arp-ping -sS -p 53,80,8080 "$GATEWAY" "$OTHER" "$OUTSIDE" "$METADATA" "$SERVER"

echo "== by the host"
ip route add "$OTHER" via "$GATEWAY"
scan -sT -p 80 "$OTHER"
ip route delete "$OTHER"

echo "== IPv6"
scan -6 -sT -p 80,8080 "$OTHER_SIX%eth0" "$HOST_SIX%eth0"
ping -6 -n -c 2 -i 0.3 -w 4 ff02::1%eth0

echo "== frames"
python3 /root/frames.py

# Another's address, and another's MAC; the patterns are "try:its-address;" and
# "try:its-mac;", and at the end, which is let through, "try:end;".
ip address add "$OTHER/24" dev eth0
ping -n -c 1 -W 1 -I "$OTHER" -p 7472793a6974732d616464726573733b "$GATEWAY"
ip address delete "$OTHER/24" dev eth0
ip link set dev eth0 address "$OTHER_MAC"
ip neigh replace "$GATEWAY" lladdr "$GATEWAY_MAC" dev eth0 nud permanent
ping -n -c 1 -W 1 -p 7472793a6974732d6d61633b "$GATEWAY"
ip link set dev eth0 address "$OWN_MAC"
ip neigh flush dev eth0 nud permanent
ping -n -c 1 -W 5 -p 7472793a656e643b "$GATEWAY"
