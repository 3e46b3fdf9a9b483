package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/forward"
	"github.com/banger-vm/banger/internal/guest/host"
)

// maxPorts is how many ports one VM may have.
const maxPorts = 128

// Port is a port of the host that leads into the guest.
type Port struct {
	Host  int `json:"host"` // 0 until the VM first ran: any that is free
	Guest int `json:"guest"`
}

// checkPorts refuses what can't be, of a new VM's ports.
func checkPorts(ports []api.Port) ([]Port, error) {
	var checked []Port
	for _, p := range ports {
		if err := checkPort(checked, p); err != nil {
			return nil, err
		}
		checked = append(checked, Port{p.Host, p.Guest})
	}
	return checked, nil
}

func checkPort(have []Port, p api.Port) error {
	switch {
	case p.Host < 0 || p.Host > 65535 || p.Guest < 1 || p.Guest > 65535:
		return bad(fmt.Sprintf("cannot lead port %d of the host to port %d of a guest", p.Host, p.Guest), "a port is a number from 1 to 65535")
	case len(have) >= maxPorts:
		return bad(fmt.Sprintf("a VM has %d ports at most", maxPorts), "take one away with banger vm port rm")
	case p.Host != 0 && slices.ContainsFunc(have, func(h Port) bool { return h.Host == p.Host }):
		return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("port %d of the host leads to this VM already", p.Host),
			Hint: "banger vm port list shows where; banger vm port rm takes it away"}
	}
	return nil
}

// portSet is the ports that one run listens on.
type portSet struct {
	mu     sync.Mutex
	open   map[int]*forward.Port // by their number on the host
	failed map[int]error
}

// openPorts listens on all ports of a VM that starts. One that is taken ends
// the start, and nothing is listened on.
func (v *machine) openPorts(r *run) error {
	wanted := v.record().Ports
	got := make([]Port, 0, len(wanted))
	for _, p := range wanted {
		opened, err := v.openPort(r, p)
		if err != nil {
			r.closePorts()
			return err
		}
		got = append(got, opened)
	}
	if slices.Equal(got, wanted) {
		return nil
	}
	return v.change(func(rec *Record) error { rec.Ports = got; return nil })
}

// reopenPorts is openPorts for a VM that another daemon started: it runs on
// whatever has become of its ports.
func (v *machine) reopenPorts(r *run) {
	for _, p := range v.record().Ports {
		if _, err := v.openPort(r, p); err != nil {
			v.log.add("daemon", err.Error())
			r.ports.mu.Lock()
			r.ports.failed[p.Host] = err
			r.ports.mu.Unlock()
		}
	}
}

func (v *machine) openPort(r *run, p Port) (Port, error) {
	listening, err := forward.Listen(p.Host)
	if errors.Is(err, unix.EADDRINUSE) {
		return p, v.portTaken(p)
	}
	if err != nil {
		return p, &api.Error{Kind: api.KindHost, Message: err.Error()}
	}
	p.Host = listening.Number()
	r.ports.mu.Lock()
	defer r.ports.mu.Unlock()
	r.ports.open[p.Host] = listening
	delete(r.ports.failed, p.Host)
	listening.Serve(func(ctx context.Context) (net.Conn, error) { return dialPort(ctx, r.agent, p.Guest) }, func(err error) {
		v.m.Log.Debug("a port leads nowhere", "vm", v.record().Name, "port", p.Host, "error", err)
	})
	return p, nil
}

// portTaken says who has a port of the host, as far as that is known.
func (v *machine) portTaken(p Port) error {
	if other := v.m.whoHas(p.Host); other != "" {
		return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("port %d of the host leads to VM %s", p.Host, other),
			Hint: fmt.Sprintf("`banger vm port rm %s %d` takes it away from there", other, p.Host)}
	}
	rec := v.record()
	without := fmt.Sprintf("`banger vm port add %s %d` takes one that is free", rec.Name, p.Guest)
	switch {
	case rec.Run: // a VM that can't be started when it is made is gone again
		without = fmt.Sprintf("-p %d takes one that is free", p.Guest)
	case slices.Contains(rec.Ports, p):
		without = fmt.Sprintf("`banger vm port rm %s %d` leaves it out", rec.Name, p.Host)
	}
	return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("port %d of the host is taken by another program", p.Host),
		Hint: fmt.Sprintf("`ss -ltnp 'sport = :%d'` shows by which; %s", p.Host, without)}
}

// whoHas names the VM that a port of the host leads to, if one does.
func (m *Manager) whoHas(number int) string {
	for _, v := range m.all() {
		if r := v.running(); r != nil && r.ports.has(number) {
			return v.record().Name
		}
	}
	return ""
}

func (s *portSet) has(number int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[number] != nil
}

// dialPort connects to whoever listens on a port of the guest: on all its
// addresses, or on one of the two that are itself.
func dialPort(ctx context.Context, agent *host.Agent, number int) (net.Conn, error) {
	port := strconv.Itoa(number)
	conn, err := agent.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err == nil || ctx.Err() != nil {
		return conn, err
	}
	if conn, err := agent.Dial(ctx, "tcp", net.JoinHostPort("::1", port)); err == nil {
		return conn, nil
	}
	return nil, err
}

// closePorts lets go of all ports.
func (r *run) closePorts() {
	r.ports.mu.Lock()
	open := r.ports.open
	r.ports.open = map[int]*forward.Port{}
	r.ports.mu.Unlock()
	for _, p := range open {
		p.Close()
	}
}

// Ports tells where a VM's ports lead, and whether they are listened on.
func (m *Manager) Ports(nameOrID string) ([]api.Port, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return nil, err
	}
	return v.describePorts(), nil
}

func (v *machine) describePorts() []api.Port {
	r := v.running()
	var list []api.Port
	for _, p := range v.record().Ports {
		d := api.Port{Host: p.Host, Guest: p.Guest}
		if r != nil {
			d.Listening = r.ports.has(p.Host)
			r.ports.mu.Lock()
			if err := r.ports.failed[p.Host]; err != nil {
				d.Error = err.Error()
			}
			r.ports.mu.Unlock()
		}
		list = append(list, d)
	}
	return list
}

// AddPort leads a port of the host into a VM: at once where it runs, else from
// its next start on.
func (m *Manager) AddPort(ctx context.Context, nameOrID string, p api.Port) (api.Port, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return api.Port{}, err
	}
	end, err := v.begin(ctx)
	if err != nil {
		return api.Port{}, err
	}
	defer end()
	if err := checkPort(v.record().Ports, p); err != nil {
		return api.Port{}, err
	}
	added := Port{p.Host, p.Guest}
	r := v.running()
	if r != nil {
		if added, err = v.openPort(r, added); err != nil {
			return api.Port{}, err
		}
	}
	err = v.change(func(rec *Record) error { rec.Ports = append(slices.Clone(rec.Ports), added); return nil })
	if err != nil {
		r.closePort(added.Host)
		return api.Port{}, err
	}
	return api.Port{Host: added.Host, Guest: added.Guest, Listening: r != nil}, nil
}

// RemovePort takes a port of the host away from a VM, and hangs up on who is
// connected over it.
func (m *Manager) RemovePort(ctx context.Context, nameOrID string, number int) error {
	v, err := m.find(nameOrID)
	if err != nil {
		return err
	}
	end, err := v.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	leads := func(p Port) bool { return p.Host == number }
	if !slices.ContainsFunc(v.record().Ports, leads) {
		return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("port %d of the host does not lead to VM %s", number, v.record().Name),
			Hint: "banger vm port list shows which do"}
	}
	err = v.change(func(rec *Record) error {
		rec.Ports = slices.DeleteFunc(slices.Clone(rec.Ports), leads)
		return nil
	})
	if err != nil {
		return err
	}
	v.running().closePort(number)
	return nil
}

// closePort lets go of one port; a VM that does not run has none.
func (r *run) closePort(number int) {
	if r == nil {
		return
	}
	r.ports.mu.Lock()
	open := r.ports.open[number]
	delete(r.ports.open, number)
	delete(r.ports.failed, number)
	r.ports.mu.Unlock()
	if open != nil {
		open.Close()
	}
}
