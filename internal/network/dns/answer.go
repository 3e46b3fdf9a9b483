package dns

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// How long one name server and all of them together may take. A guest's own
// resolver asks again after five seconds.
const (
	serverTime = 2 * time.Second
	totalTime  = 5 * time.Second
)

// transport is how a query travels.
type transport string

const (
	overUDP transport = "udp"
	overTCP transport = "tcp"
)

// safeSize is the largest datagram asked for from a name server: what passes
// every link unfragmented.
const safeSize = 1232

var (
	errNoServers   = errors.New("no name server is known")
	errOtherAnswer = errors.New("the answer is to another question")
)

// answer gives the packed answer to a packed query; nil if there is nothing
// that could be answered.
func (f *Forwarder) answer(packed []byte, by transport) []byte {
	query := new(dns.Msg)
	if err := query.Unpack(packed); err != nil || query.Response {
		return nil
	}
	reply := f.reply(query)
	if by == overUDP {
		reply.Truncate(sizeFor(query))
	}
	out, err := reply.Pack()
	if err != nil {
		f.log.Debug("cannot pack an answer", "error", err)
		out, _ = refusal(query, dns.RcodeServerFailure).Pack()
	}
	return out
}

func (f *Forwarder) reply(query *dns.Msg) *dns.Msg {
	if query.Opcode != dns.OpcodeQuery {
		return refusal(query, dns.RcodeNotImplemented)
	}
	if len(query.Question) != 1 {
		return refusal(query, dns.RcodeFormatError)
	}
	reply, err := f.ask(query)
	if err != nil {
		f.log.Debug("cannot resolve a name", "name", query.Question[0].Name, "error", err)
		return refusal(query, dns.RcodeServerFailure)
	}
	reply.Id = query.Id
	return reply
}

// refusal is an answer with nothing but a code. Unlike SetRcode of the library
// it takes a query without a question too.
func refusal(query *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.Opcode, m.Question = query.Id, query.Opcode, query.Question
	m.Response, m.RecursionDesired, m.RecursionAvailable, m.Rcode = true, query.RecursionDesired, true, code
	return m
}

func sizeFor(query *dns.Msg) int {
	size := dns.MinMsgSize
	if opt := query.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	return size
}

// ask tries the name servers in turn until one gives an answer that is not a
// failure of its own.
func (f *Forwarder) ask(query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(f.ctx, totalTime)
	defer cancel()
	var failed *dns.Msg
	var errs []error
	for _, server := range f.cfg.Upstreams() {
		if server == f.cfg.Listen {
			continue
		}
		reply, err := askServer(ctx, query, server)
		if err == nil && !isServersFault(reply) {
			return reply, nil
		}
		if err == nil {
			failed = reply
		}
		errs = append(errs, err)
	}
	if failed != nil {
		return failed, nil
	}
	if len(errs) == 0 {
		return nil, errNoServers
	}
	return nil, errors.Join(errs...)
}

func isServersFault(m *dns.Msg) bool {
	return m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused
}

// askServer asks one server, by TCP where a datagram has no room for the
// answer.
func askServer(ctx context.Context, query *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTime)
	defer cancel()
	reply, err := exchange(ctx, query, server, overUDP)
	if err == nil && reply.Truncated {
		return exchange(ctx, query, server, overTCP)
	}
	return reply, err
}

// exchange sends the query under an identifier of its own, from a port of its
// own, so that nobody who sees or guesses the guest's can answer in its place.
func exchange(ctx context.Context, query *dns.Msg, server netip.AddrPort, by transport) (*dns.Msg, error) {
	m := query.Copy()
	m.Id = dns.Id()
	if opt := m.IsEdns0(); opt != nil {
		opt.SetUDPSize(safeSize)
	}
	client := &dns.Client{Net: string(by), Timeout: serverTime}
	conn, err := client.DialContext(ctx, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // the library waits for a deadline only
	reply, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	if err != nil {
		return nil, err
	}
	if !answers(reply, m) {
		return nil, errOtherAnswer
	}
	return reply, nil
}

func answers(reply, query *dns.Msg) bool {
	if !reply.Response || len(reply.Question) != 1 {
		return false
	}
	a, q := reply.Question[0], query.Question[0]
	return a.Qtype == q.Qtype && a.Qclass == q.Qclass && strings.EqualFold(a.Name, q.Name)
}
