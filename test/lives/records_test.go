//go:build hosttest

package lives

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/test/agree"
)

func (s *station) recordPath(id string) string { return filepath.Join(s.stateDir(), id, "vm.json") }

func (s *station) rewrite(path string, edit func([]byte) []byte) {
	s.Helper()
	data, err := os.ReadFile(path)
	s.check(err)
	s.check(os.WriteFile(path, edit(data), 0o600))
}

// A record that can't be trusted is set aside with the disk it belongs to, and
// told about; the other VMs work.
func TestRecordsThatCannotBeTrusted(t *testing.T) {
	for name, spoil := range map[string]func(s *station, path string){
		"newer": func(s *station, path string) {
			s.rewrite(path, func(data []byte) []byte { return bytes.Replace(data, []byte(`"format": 1`), []byte(`"format": 99`), 1) })
		},
		"truncated": func(s *station, path string) { s.rewrite(path, func(data []byte) []byte { return data[:len(data)/2] }) },
		"empty":     func(s *station, path string) { s.rewrite(path, func([]byte) []byte { return nil }) },
		"gone":      func(s *station, path string) { s.check(os.Remove(path)) },
		"foreign":   func(s *station, path string) { s.check(os.Chown(path, 65534, 65534)) },
		"a FIFO": func(s *station, path string) {
			s.check(os.Remove(path))
			s.check(syscall.Mkfifo(path, 0o600))
		},
	} {
		for _, running := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " running"}[running], func(t *testing.T) {
				s := newStation(t)
				s.start()
				bad, good := s.run("bad"), s.run("good")
				if !running {
					_, err := s.client.StopVM(s.ctx(), "bad", api.StopRequest{}, nil)
					s.check(err)
				}
				s.kill()
				spoil(s, s.recordPath(bad.ID))
				s.start()
				s.log.await(t, 0, "set aside")
				aside, _ := filepath.Glob(filepath.Join(s.stateDir(), bad.ID+".*", "disk.cow"))
				if len(aside) != 1 {
					t.Errorf("set aside: %q, in %q", aside, agree.Names(s.stateDir()))
				}
				var told *api.Error
				if _, err := s.client.VM(s.ctx(), "bad"); !errors.As(err, &told) || !strings.Contains(told.Hint, "banger doctor") {
					t.Errorf("who asks for it is told %v", err)
				}
				s.exec("good", "true")
				if now := s.vm("good"); now.VMM.PID != good.VMM.PID {
					t.Error("the other VM has another VMM")
				}
				for _, disk := range aside {
					s.check(os.RemoveAll(filepath.Dir(disk)))
				}
				s.run("bad")
				s.agrees()
				s.empty()
			})
		}
	}
}

// A record that the host's disk does not give out costs no VM: bangerd does not
// start, says why, and has touched nothing. It starts when the disk gives it out.
func TestARecordThatTheDiskDoesNotGiveOut(t *testing.T) {
	s := newStation(t)
	s.start()
	one, two := s.run("one"), s.run("two")
	s.kill()
	had := agree.Names(s.stateDir())
	// What is at address 0 of a process's memory can't be read: EIO.
	s.check(syscall.Mount("/proc/self/mem", s.recordPath(one.ID), "", syscall.MS_BIND, ""))
	defer syscall.Unmount(s.recordPath(one.ID), syscall.MNT_DETACH)
	d, said := s.launch()
	for _, want := range []string{"input/output error", one.ID, "nothing was done to any VM"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
	select {
	case <-d.done:
	case <-time.After(patience):
		t.Fatal("it did not end")
	}
	s.check(syscall.Unmount(s.recordPath(one.ID), 0))
	if diff := agree.Same("directories of VMs", agree.Names(s.stateDir()), had); diff != nil {
		t.Error(diff)
	}
	s.start()
	for _, was := range []api.VM{one, two} {
		if now := s.vm(was.Name); now.VMM == nil || now.VMM.PID != was.VMM.PID {
			t.Errorf("%s has another VMM: it is %s: %s", was.Name, now.State, now.Reason)
		}
		s.exec(was.Name, "true")
	}
	s.agrees()
	s.empty()
}

// A VM whose log can't be opened is as good as any, and has a log again when it can.
func TestALogThatCannotBeOpened(t *testing.T) {
	s := newStation(t)
	s.start()
	one, two := s.run("one"), s.run("two")
	_, err := s.client.StopVM(s.ctx(), "two", api.StopRequest{}, nil)
	s.check(err)
	s.kill()
	logs := []string{filepath.Join(s.stateDir(), one.ID, "log.ndjson"), filepath.Join(s.stateDir(), two.ID, "log.ndjson")}
	for _, path := range logs {
		s.check(os.Remove(path))
		s.check(os.Mkdir(path, 0o700))
	}
	before := s.log.end()
	s.start()
	s.log.await(t, before, "cannot open the VM's log")
	s.agrees()
	if now := s.vm("one"); now.State != api.StateRunning || now.VMM.PID != one.VMM.PID {
		t.Errorf("it is %s: %s", now.State, now.Reason)
	}
	s.exec("one", "true")
	_, err = s.client.StartVM(s.ctx(), "two", api.StartRequest{}, nil)
	s.check(err)
	s.awaitLog("one", func(line api.LogLine) bool { return strings.Contains(line.Text, "cannot read the VM's log") })
	for _, path := range logs {
		s.check(os.Remove(path))
	}
	_, err = s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	s.awaitLog("one", func(line api.LogLine) bool { return line.Text == "the VM is stopped" })
	s.agrees()
	s.empty()
}

// After the host's restart no process, tap or runtime directory is there, and
// the boot id is another.
func TestHostRestart(t *testing.T) {
	s := newStation(t)
	s.start()
	one, _ := s.run("one"), s.run("two")
	_, err := s.client.StopVM(s.ctx(), "two", api.StopRequest{}, nil)
	s.check(err)
	s.kill()
	s.endProcess(one.VMM.PID)
	s.killKeepers()
	s.dropNetwork()
	s.check(os.RemoveAll(filepath.Join(s.runtime, "banger")))
	bootID := regexp.MustCompile(`("boot_id": )"[^"]*"`)
	s.rewrite(s.recordPath(one.ID), func(data []byte) []byte {
		if !bootID.Match(data) {
			t.Fatalf("no boot id in %s", data)
		}
		return bootID.ReplaceAll(data, []byte(`$1"00000000-0000-0000-0000-000000000000"`))
	})
	s.start()
	s.agrees()
	if v := s.vm("one"); v.State != api.StateStopped || v.Reason != "the host was restarted" {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	for _, name := range []string{"one", "two"} {
		_, err := s.client.StartVM(s.ctx(), name, api.StartRequest{}, nil)
		s.check(err)
		s.exec(name, "true")
	}
	s.agrees()
	s.empty()
}

// A runtime directory that was cleaned away while no daemon lived took its VMs'
// sockets along; what ran there ends and the VMs start again.
func TestRuntimeDirectoryGone(t *testing.T) {
	s := newStation(t)
	s.start()
	aRunningVM(s)
	s.kill()
	s.check(os.RemoveAll(filepath.Join(s.runtime, "banger")))
	s.start()
	s.agrees()
	if v := s.vm("one"); v.State != api.StateFailed {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	s.banger("vm", "start", "one")
	s.answers()
	s.agrees()
	s.empty()
}
