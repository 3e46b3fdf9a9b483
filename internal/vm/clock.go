package vm

import (
	"context"
	"fmt"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/hostclock"
)

// FollowClock sets the clock of every guest that runs whenever the host's has
// jumped: guests do not know that their host slept. It ends with the manager.
func (m *Manager) FollowClock(clock hostclock.Source) {
	m.workers.Go(func() {
		err := hostclock.Watch(m.life, clock, func(j hostclock.Jump) {
			m.Log.Info("the host's clock jumped", "slept", j.Slept, "set", j.Set)
			for _, v := range m.all() {
				v.resetClock(j.String())
			}
		})
		if m.life.Err() == nil {
			m.Log.Error("the guests' clocks do not follow the host's any more", "error", err)
		}
	})
}

// resetClock sets a guest's clock, on the side: one that does not answer is not
// waited for. One that is paused gets the time when it runs on.
func (v *machine) resetClock(why string) {
	r := v.running()
	if r == nil || v.record().State == api.StatePaused {
		return
	}
	v.m.workers.Go(func() {
		switch err := v.setClock(r); {
		case err == nil:
			v.log.add("daemon", why+", and the guest's clock is set")
		case r.ctx.Err() == nil && !r.over():
			v.log.add("daemon", fmt.Sprintf("%s, but: %v", why, err))
			v.m.Log.Warn("a guest's clock is wrong", "vm", v.record().Name, "error", err)
		}
	})
}

// setClock waits for a guest that is only starting: its configuration may have
// been sent before the jump.
func (v *machine) setClock(r *run) error {
	ctx, cancel := context.WithTimeout(r.ctx, v.m.BootTimeout)
	defer cancel()
	if err := r.await(ctx, api.WaitAgent); err != nil {
		return fmt.Errorf("cannot set the guest's clock: %w", err)
	}
	return r.agent.SetTime(ctx)
}
