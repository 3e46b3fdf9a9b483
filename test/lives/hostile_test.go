//go:build hosttest

package lives

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
)

// A guest's agent that sends without end, to clients that read and to clients that
// never do, costs the daemon no more than a bounded memory, and no other VM its
// answers.
func TestAFloodOfOneAgentHarmsNoOther(t *testing.T) {
	s := newStation(t)
	s.start()
	s.run("bad")
	s.run("good")
	s.exec("good", "true")
	before := s.usage()
	ctx, stop := context.WithCancel(s.ctx())
	var floods sync.WaitGroup
	unread, never := io.Pipe()
	for n := range 24 {
		command, err := s.client.Exec(ctx, "bad", api.ExecRequest{Argv: []string{"flood"}, Wait: api.WaitAgent})
		s.check(err)
		var to io.Writer = never
		if n%8 == 0 {
			to = io.Discard
		}
		floods.Go(func() {
			if status, err := command.Run(ctx, nil, to, io.Discard); err == nil {
				t.Errorf("a flood ended with status %d", status)
			}
		})
	}
	const most = 5 * time.Second
	for range 50 {
		begun := time.Now()
		s.exec("good", "true")
		if took := time.Since(begun); took > most {
			t.Errorf("beside a flood another VM answers after %v", took)
		}
	}
	if during := s.usage(); during.memory > before.memory+floodMemory {
		t.Errorf("the daemon grew from %d to %d KiB", before.memory, during.memory)
	}
	stop()
	unread.Close()
	floods.Wait()
	s.exec("bad", "true")
	s.agrees()
	s.empty()
}

// floodMemory is what two dozen streams may hold that nobody reads, in KiB.
const floodMemory = 48 << 10
