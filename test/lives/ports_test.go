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

// Ports are there as long as the VM runs, whichever daemon it has.
func TestPortsLiveWithTheirVM(t *testing.T) {
	s := newStation(t)
	s.start("")
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
	s.start("")
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
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindExists || !strings.Contains(told.Message, "is taken") {
		t.Errorf("a start with a port that is taken: %v", err)
	}
	if vms := s.agrees(); len(vms) != 1 || vms[0].VMM != nil {
		t.Errorf("after it: %v", brief(vms))
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
