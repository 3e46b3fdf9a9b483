//go:build hosttest

package lives

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Who follows a VM's log learns that bangerd is gone, and not the VM: the log goes on,
// and bangerd is not there to tell it.
func TestAFollowedLogEnds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(*station)
		wrong string
	}{
		{"bangerd stops", (*station).stop, "the connection to bangerd broke"},
		{"bangerd is killed", (*station).kill, "the connection to bangerd broke"},
		{"the VM is deleted", func(s *station) { s.check(s.client.DeleteVM(s.ctx(), "one", nil)) }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStation(t)
			s.start()
			s.run("one")
			read, write := io.Pipe()
			var wrong bytes.Buffer
			follower := exec.CommandContext(s.ctx(), filepath.Join(programs, "bin/banger"), "vm", "logs", "-f", "one")
			follower.Env, follower.Dir, follower.Stdout, follower.Stderr = s.env(), s.dir, write, &wrong
			s.check(follower.Start())
			lines := bufio.NewScanner(read)
			for lines.Scan() && !strings.Contains(lines.Text(), "the VM is running") {
			}
			go func() { _, _ = io.Copy(io.Discard, read) }()
			tt.end(s)
			err := follower.Wait()
			if !strings.Contains(wrong.String(), tt.wrong) || (err == nil) != (tt.wrong == "") {
				t.Errorf("it ends with %v and says %s", err, wrong.String())
			}
			if s.daemon == nil {
				s.start()
			}
			s.empty()
		})
	}
}
