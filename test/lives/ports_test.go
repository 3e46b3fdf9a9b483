//go:build hosttest

package lives

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/test/agree"
)

// says sends words to a port of the host and gives what comes back.
func says(port int, words string) string {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, words); err != nil {
		return err.Error()
	}
	conn.(*net.TCPConn).CloseWrite()
	back, _ := io.ReadAll(conn)
	return string(back)
}

// refused checks an error that says that a port is taken, and nothing twice.
func (s *station) refused(err error, message, hint string) {
	s.Helper()
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindExists || told.Message != message || told.Hint != hint {
		s.Errorf("the error is %#v, not %q with the hint %q", err, message, hint)
	}
}

// A port that is added and is taken: who has it is told, and what to do.
func TestTakenPorts(t *testing.T) {
	s := newStation(t)
	s.start()
	s.run("a")
	s.run("b")
	others, err := s.client.AddPort(s.ctx(), "b", api.Port{Guest: 80})
	s.check(err)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	s.check(err)
	defer taken.Close()
	programs := taken.Addr().(*net.TCPAddr).Port

	_, err = s.client.AddPort(s.ctx(), "a", api.Port{Host: programs, Guest: 80})
	s.refused(err, fmt.Sprintf("port %d of the host is taken by another program", programs),
		fmt.Sprintf("`ss -ltnp 'sport = :%d'` shows by which; `banger vm port add a 80` takes one that is free", programs))
	_, err = s.client.AddPort(s.ctx(), "a", api.Port{Host: others.Host, Guest: 80})
	s.refused(err, fmt.Sprintf("port %d of the host leads to VM b", others.Host),
		fmt.Sprintf("`banger vm port rm b %d` takes it away from there", others.Host))
	_, err = s.client.Create(s.ctx(), api.CreateRequest{Name: "c", Ports: []api.Port{{Host: programs, Guest: 80}}}, nil)
	s.refused(err, fmt.Sprintf("port %d of the host is taken by another program", programs),
		fmt.Sprintf("`ss -ltnp 'sport = :%d'` shows by which; -p 80 takes one that is free", programs))
	s.empty()
}

// Ports are there as long as the VM runs, whichever daemon it has.
func TestPortsLiveWithTheirVM(t *testing.T) {
	s := newStation(t)
	s.start()
	made, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "a", Ports: []api.Port{{Guest: 80}}}, nil)
	s.check(err)
	made.Close()
	port := made.VM.Ports[0].Host
	if got := says(port, "first"); got != "first" {
		t.Fatalf("port %d: %q", port, got)
	}
	added, err := s.client.AddPort(s.ctx(), "a", api.Port{Guest: 81})
	s.check(err)

	s.kill()
	s.start()
	for _, p := range []int{port, added.Host} {
		if got := says(p, "again"); got != "again" {
			t.Errorf("port %d after the daemon's death: %q", p, got)
		}
	}
	s.check(s.client.RemovePort(s.ctx(), "a", added.Host))
	if got := says(added.Host, "x"); !strings.Contains(got, "refused") {
		t.Errorf("a port that was taken away: %q", got)
	}

	_, err = s.client.StopVM(s.ctx(), "a", api.StopRequest{}, nil)
	s.check(err)
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	s.check(err)
	_, err = s.client.StartVM(s.ctx(), "a", api.StartRequest{}, nil)
	s.refused(err, fmt.Sprintf("port %d of the host is taken by another program", port),
		fmt.Sprintf("`ss -ltnp 'sport = :%d'` shows by which; `banger vm port rm a %d` leaves it out", port, port))
	if vms := s.agrees(); len(vms) != 1 || vms[0].VMM != nil {
		t.Errorf("after it: %v", agree.Brief(vms))
	}
	taken.Close()
	_, err = s.client.StartVM(s.ctx(), "a", api.StartRequest{}, nil)
	s.check(err)
	if got := says(port, "last"); got != "last" {
		t.Errorf("port %d: %q", port, got)
	}
	s.check(s.client.DeleteVM(s.ctx(), "a", nil))
	if got := says(port, "x"); !strings.Contains(got, "refused") {
		t.Errorf("a deleted VM's port: %q", got)
	}
}
