//go:build hosttest

package lives

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is some user who is neither root nor a VM's.
const nobody = 65534

// A daemon serves its own user and root, and looks who is there: another user
// is sent away even where the directories have been opened to all.
func TestADaemonServesItsUserOnly(t *testing.T) {
	s := newStation(t)
	s.start()
	s.run("one")
	socket := filepath.Join(s.runtime, "banger/bangerd.sock")
	if said, err := s.ask(socket, nobody); err == nil {
		t.Errorf("another user comes through the directory: %s", said)
	}
	opened := map[string]fs.FileMode{s.runtime: 0o700, filepath.Dir(socket): 0o700, socket: 0o600}
	for path := range opened {
		s.check(os.Chmod(path, 0o777))
	}
	said, err := s.ask(socket, nobody)
	if err != nil || !strings.Contains(said, "this bangerd belongs to another user") || strings.Contains(said, `"one"`) {
		t.Errorf("another user is told %s, %v", said, err)
	}
	if said, err := s.ask(socket, 0); err != nil || !strings.Contains(said, `"one"`) {
		t.Errorf("root is told %s, %v", said, err)
	}
	for path, mode := range opened {
		s.check(os.Chmod(path, mode)) // banger itself refuses directories that all may enter
	}
	s.agrees()
	s.empty()
}

// ask asks the daemon as a user for its VMs.
func (s *station) ask(socket string, uid uint32) (string, error) {
	curl := exec.Command("curl", "-sS", "--max-time", "30", "--unix-socket", socket, "http://banger/v1/vms")
	curl.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	said, err := curl.CombinedOutput()
	return string(said), err
}

// What a VM has is closed to all but its user and its VMM's.
func TestWhatAVMHasIsClosedToOthers(t *testing.T) {
	s := newStation(t)
	s.start()
	v := s.run("one")
	state, run := filepath.Join(s.stateDir(), v.ID), s.runDir(v.ID)
	for path, want := range map[string]fs.FileMode{
		s.runtime + "/banger":              fs.ModeDir | 0o700,
		s.runtime + "/banger/bangerd.sock": fs.ModeSocket | 0o600,
		filepath.Dir(s.stateDir()):         fs.ModeDir | 0o700,
		s.stateDir():                       fs.ModeDir | 0o700,
		state:                              fs.ModeDir | 0o700,
		state + "/vm.json":                 0o600,
		state + "/disk.cow":                0o600,
		state + "/log.ndjson":              0o600,
		state + "/ssh_host_ed25519_key":    0o600,
		run:                                fs.ModeDir | 0o700,
		run + "/console":                   fs.ModeNamedPipe | 0o600,
		filepath.Join(s.dir, "state/banger/bangerd.lock"): 0o600,
	} {
		info, err := os.Lstat(path)
		s.check(err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v, not %v", path, info.Mode(), want)
		}
	}
	s.empty()
}
