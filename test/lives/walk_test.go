//go:build hosttest

package lives

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/testenv"
	"github.com/banger-vm/banger/test/agree"
)

// operation is one at whose steps somebody is killed.
type operation struct {
	steps  []string
	before func(*station) // brings about what it begins with
	begin  func(*station) // tells banger, or does what bangerd acts on by itself
	then   func(*station) // what must hold after it went well, at once or said again
}

// victim is who is killed. Its deed kills while the operation halts before a
// step, lets it go on, and returns when all that comes of it is over: how many
// died, and how the operation ended.
type victim struct {
	name string
	die  func(s *station, halted *testenv.Gate) (dead int, outcome error)
}

var (
	daemonDies = victim{"bangerd", killDaemon}
	clientDies = victim{"banger", killClient}
	vmmDies    = victim{"vmm", killVMMs}
	keeperDies = victim{"keeper", killKeeper}
)

// walk does, for each victim and each step, one life in which the victim dies
// there.
func (o operation) walk(t *testing.T, victims ...victim) {
	for _, who := range victims {
		t.Run(who.name, func(t *testing.T) { o.walkOn(newStation(t), who) })
	}
}

func (o operation) walkOn(s *station, who victim) {
	s.start()
	dead := 0
	for _, step := range o.steps {
		if !s.runs(step, func() { dead += o.life(s, step, who) }) {
			return
		}
	}
	if dead == 0 {
		s.Error("there was nobody to kill at any step")
	}
	s.empty()
}

func (o operation) life(s *station, step string, who victim) int {
	s.Helper()
	o.before(s)
	s.agrees()
	halted, err := testenv.CloseGate(s.halts, step)
	s.check(err)
	s.said = nil
	o.begin(s)
	s.check(halted.Await(patience))
	dead, outcome := who.die(s, halted)
	if outcome != nil {
		s.again()
	}
	o.then(s)
	s.agrees()
	s.deleteAll()
	return dead
}

// runs runs a test of its own on the station.
func (s *station) runs(name string, test func()) bool {
	whole := s.T
	defer func() { s.T = whole }()
	return whole.Run(name, func(t *testing.T) {
		s.T = t
		test()
	})
}

// killDaemon is followed by the start of another.
func killDaemon(s *station, halted *testenv.Gate) (int, error) {
	s.Helper()
	s.kill()
	halted.Open()
	err := s.outcome()
	if err == nil {
		s.Error("the command went well")
	}
	s.start()
	return 1, err
}

// killClient is followed by what bangerd does when it sees that the client is gone.
func killClient(s *station, halted *testenv.Gate) (int, error) {
	s.Helper()
	before := s.log.end()
	s.check(s.said.cmd.Process.Kill())
	err := s.outcome()
	op := s.log.await(s.T, before, `msg="its client is gone" op=(\w+)`)[1]
	halted.Open()
	s.log.await(s.T, before, `msg=(done|failed) op=`+op)
	return 1, err
}

// killVMMs kills whatever VMM there is. Before some steps there is none.
func killVMMs(s *station, halted *testenv.Gate) (int, error) {
	s.Helper()
	there := agree.PIDsIn(s.host().Runtime)
	for _, pid := range there {
		s.endProcess(number(pid))
	}
	halted.Open()
	err := s.outcome()
	if len(there) == 0 {
		return 0, err
	}
	for _, pid := range there {
		s.settles(number(pid))
	}
	return len(there), errors.Join(err, errors.New("its VMM was killed"))
}

// settles waits until bangerd has seen the end of a VMM that is dead.
func (s *station) settles(vmm int) {
	s.Helper()
	vms, err := s.client.VMs(s.ctx())
	s.check(err)
	for _, v := range vms {
		if !hasLost(vmm)(v) {
			s.awaitState(v.Name, hasLost(vmm))
		}
	}
}

// killKeeper kills one whom a running bangerd does not need.
func killKeeper(s *station, halted *testenv.Gate) (int, error) {
	s.Helper()
	dead := s.killKeepers()
	halted.Open()
	if err := s.outcome(); err != nil && !errors.Is(err, errNobodyTold) {
		s.Error(err)
	}
	return dead, nil
}

// killKeepers kills what holds the consoles of running VMs, and says how many
// that were.
func (s *station) killKeepers() int {
	s.Helper()
	dead := 0
	for _, pid := range s.processes("bin/bangerd") {
		if s.daemon == nil || pid != s.daemon.cmd.Process.Pid {
			s.endProcess(pid)
			dead++
		}
	}
	return dead
}

func number(pid string) (n int) {
	fmt.Sscan(pid, &n)
	return n
}

// command is a banger that was told something.
type command struct {
	cmd  *exec.Cmd
	said bytes.Buffer
}

// told is an operation's begin.
func told(words ...string) func(*station) {
	return func(s *station) { s.tell(words...) }
}

// tell starts a banger.
func (s *station) tell(words ...string) {
	s.Helper()
	c := &command{cmd: exec.CommandContext(s.ctx(), filepath.Join(programs, "bin/banger"), words...)}
	c.cmd.Env, c.cmd.Dir = s.env(), s.dir
	c.cmd.Stdout, c.cmd.Stderr = &c.said, &c.said
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.check(c.cmd.Start())
	s.said = c
}

// errNobodyTold is the outcome of what bangerd does by itself.
var errNobodyTold = errors.New("nobody was told")

// outcome waits for the banger that was told last.
func (s *station) outcome() error {
	if s.said == nil {
		return errNobodyTold
	}
	if err := s.said.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(s.said.cmd.Args, " "), err, s.said.said.String())
	}
	return nil
}

// again looks whether all agrees and says once more what was said last. What bangerd
// does by itself goes on.
func (s *station) again() {
	s.Helper()
	if s.said != nil {
		s.agrees()
		s.banger(s.said.cmd.Args[1:]...)
	}
}

// banger tells banger something that goes well.
func (s *station) banger(words ...string) {
	s.Helper()
	s.tell(words...)
	s.check(s.outcome())
}
