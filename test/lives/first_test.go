//go:build hosttest

package lives

import (
	"testing"

	"github.com/banger-vm/banger/api"
)

// Only who waits for the agent alone has commands that go before the guest's init.
func TestCommandsGoFirstForWhoWaitsForTheAgent(t *testing.T) {
	s := newStation(t)
	s.start()
	first := func(when, want string) {
		t.Helper()
		if got := s.exec("one", "first"); got != want {
			t.Errorf("%s, its command goes first: %s, want %s", when, got, want)
		}
	}
	_, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one", Wait: api.WaitAgent}, nil)
	s.check(err)
	first("created with --wait agent", "true")
	for wait, want := range map[api.Wait]string{api.WaitDefault: "false", api.WaitSystem: "false", api.WaitAgent: "true"} {
		_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
		s.check(err)
		_, err = s.client.StartVM(s.ctx(), "one", api.StartRequest{Wait: wait}, nil)
		s.check(err)
		first("started with --wait "+string(wait), want)
	}
}
