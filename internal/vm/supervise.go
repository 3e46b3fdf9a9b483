package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/progress"
)

// killTimeout bounds the end of a process that got SIGKILL.
const killTimeout = 10 * time.Second

// supervise watches a running VMM and deals with its end. It is the only one
// who settles what becomes of a VM whose VMM is gone.
func (v *machine) supervise(r *run) {
	v.setRun(r)
	v.m.workers.Go(func() {
		for r.ctx.Err() == nil {
			select {
			case <-r.process.Done():
				if r.ctx.Err() == nil {
					v.settle(r)
				}
				return
			case <-r.console.heard:
				v.endIdle(r)
			case <-r.ctx.Done():
			}
		}
	})
}

// endIdle follows a guest kernel's last word: a reset or a panic ends the VMM by
// itself, after a poweroff or a halt it would idle for ever.
func (v *machine) endIdle(r *run) {
	word, about := r.console.last()
	if word != wordPowerOff && word != wordHalt {
		return
	}
	r.console.doubt()
	alive := v.livesOn(r)
	if r.ctx.Err() != nil {
		return // the next daemon finds the word in the log, and asks
	}
	if alive {
		v.log.add("daemon", fmt.Sprintf("%q was on the console, and the guest lives on: a program wrote it", about))
		return
	}
	r.console.believe(word, about)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), killTimeout)
	defer cancel()
	if err := r.process.Kill(ctx); err != nil {
		v.log.add("daemon", err.Error())
	}
}

const (
	// lastBreath is far more than a guest's other processors run on after its
	// kernel's last word: their agent could still answer.
	lastBreath = time.Second
	// lifeSign is how long a guest may take to show that it lives on. A VMM hangs
	// up after two seconds on who dials a dead one.
	lifeSign = 2 * time.Second
)

// livesOn asks the agent of a guest whose console says that it went down, where
// nobody asked for that and the agent did not say goodbye: any program in the
// guest can write on the console.
func (v *machine) livesOn(r *run) bool {
	if v.record().State == api.StateStopping || r.farewell() != "" {
		return false
	}
	select {
	case <-time.After(lastBreath):
	case <-r.process.Done():
		return false
	case <-r.ctx.Done():
		return false
	}
	ctx, cancel := context.WithTimeout(r.ctx, lifeSign)
	defer cancel()
	_, err := r.agent.Info(ctx)
	return err == nil
}

// settle clears away what a VMM that has ended leaves, and says what the VM is
// now. A guest that wanted a reboot gets one.
func (v *machine) settle(r *run) {
	defer close(r.settled)
	r.console.finish()
	word, about := r.console.last()
	status, known := r.process.Exit()
	how := v.explain(ending{watched: true, word: word, about: about, goodbye: r.farewell(), status: status, known: known, words: r.process.LastWords()})
	v.settles(r)
	defer v.settles(nil)
	r.letGo()
	again, err := v.ended(how)
	if err != nil {
		v.m.Log.Error("cannot clear away after a VM", "vm", v.record().Name, "error", err)
	}
	if again {
		v.m.workers.Go(v.rebootGuest)
	}
}

// ending is all that is known of why a VMM ended.
type ending struct {
	watched bool // a daemon saw it
	word    lastWord
	about   string // the console line of the word
	goodbye proto.Reason
	// diskGone says that the guest's kernel could no longer use its disk when it
	// panicked.
	diskGone bool
	status   int
	known    bool   // the status is: to the daemon that started the VMM
	words    string // the VMM's last ones
	// memory says that the kernel killed the VMM for want of memory.
	memory string
	// hostRestarted is an ending that nobody saw because the host went down.
	hostRestarted bool
}

// guestRestarts is the reason of a VM whose guest asked for a reboot.
const guestRestarts = "the guest restarts"

// verdict says what becomes of a VM in state when its VMM ended so. again is a
// guest that asked for a reboot.
func (e ending) verdict(state api.State) (to api.State, reason string, again bool) {
	switch {
	case state == api.StateDeleting:
		return api.StateDeleting, "", false
	case state == api.StateStopping:
		return api.StateStopped, "", false
	case e.hostRestarted:
		return api.StateStopped, "the host was restarted", false
	case e.word == wordPanic:
		return api.StateFailed, e.panicked(), false
	case e.word == wordReboot || e.word == wordNone && e.goodbye == proto.ReasonReboot:
		return api.StateStopped, guestRestarts, true
	case e.word == wordPowerOff || e.goodbye == proto.ReasonPoweroff:
		return api.StateStopped, "the guest powered off", false
	case e.word == wordHalt || e.goodbye == proto.ReasonHalt:
		return api.StateStopped, "the guest halted", false
	case e.memory != "":
		return api.StateFailed, e.memory, false
	case e.known:
		return api.StateFailed, "the VMM " + howEnded(e.status), false
	case e.watched:
		return api.StateFailed, "the VMM was killed or crashed, its status is not known", false
	default:
		return api.StateFailed, "it ended unseen", false
	}
}

// howEnded says how a VMM ended whose exit status is known. A signal may have killed
// it, or what it runs the guest on.
func howEnded(status int) string {
	if status > 128 {
		return fmt.Sprintf("was killed by signal %d", status-128)
	}
	return fmt.Sprintf("ended with status %d", status)
}

// itsDiskGone explains a panic. A kernel that goes down resets its virtio devices while
// programs still run (Linux 6.12.117, virtio_dev_shutdown in drivers/virtio/virtio.c):
// after a poweroff or reboot by force, which end no program before, init can die over
// a page that can't be read any more.
const itsDiskGone = "its disk no longer answered: it was powering off or restarting by force, or the host's own disk fails"

func (e ending) panicked() string {
	reason := "the guest's kernel panicked: " + strings.TrimPrefix(e.about, "Kernel panic - not syncing: ")
	if e.diskGone {
		reason += "; " + itsDiskGone
	}
	return reason
}

// explain looks for the cause of an ending of which the guest said nothing and
// which nobody asked for; then the VM's log gets the VMM's last words.
func (v *machine) explain(how ending) ending {
	how.diskGone = how.word == wordPanic && v.log.diskGone()
	state := v.record().State
	asked := state == api.StateStopping || state == api.StateDeleting
	if !asked && !how.hostRestarted && how.word == wordNone && how.goodbye == "" {
		how.memory = v.killedForMemory()
		v.log.quote("vmm", how.words)
	}
	return how
}

// killedForMemory says that the kernel killed the VM's VMM, or a process of it,
// for want of memory; "" when it did not.
func (v *machine) killedForMemory() string {
	rec := v.record()
	if rec.VMM == nil {
		return ""
	}
	return rec.VMM.Memory.Cause(rec.VMM.Identity.PID, rec.Lease.UID)
}

// ended does what is to be done after a VMM's end, whoever saw it.
func (v *machine) ended(how ending) (again bool, err error) {
	m, rec := v.m, v.record()
	s := m.steps(progress.Discard)
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	to, reason, again := how.verdict(rec.State)
	err = errors.Join(
		s.do(ctx, "end.network", func() error { return m.detach(ctx, rec.ID) }),
		s.do(ctx, "end.directory", func() error { return v.clearRunDir() }),
		s.do(ctx, "end.commit", func() error {
			return v.insist(func(r *Record) error {
				r.VMM, r.Restart = nil, again
				if to == api.StateStopped && r.State == api.StateStopping {
					reason = r.Reason
				}
				return transition(r, to, reason)
			})
		}),
	)
	return again, err
}

// rebootPause keeps a guest that reboots at once, again and again, from
// keeping the host busy.
const rebootPause = time.Second

// rebootGuest starts a VM again whose guest asked for it.
func (v *machine) rebootGuest() {
	ctx := v.m.life
	if time.Since(v.record().Started) < rebootPause {
		select {
		case <-time.After(rebootPause):
		case <-ctx.Done():
			return
		}
	}
	end, err := v.begin(ctx)
	if err != nil {
		return
	}
	defer end()
	if r := v.record(); r.State != api.StateStopped || !r.Restart {
		return
	}
	ctx, id := progress.NewOperation(ctx)
	log := v.m.Log.With("op", id, "vm", v.record().Name)
	log.Info("vm start", "why", "its guest restarts")
	if _, err := v.start(ctx, api.WaitDefault, progress.Discard); err != nil {
		log.Error("cannot start a VM again after its guest's reboot", "error", err)
		return
	}
	log.Info("done", "took", time.Since(v.record().Started).Round(time.Millisecond))
}
