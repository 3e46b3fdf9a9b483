package network

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/banger-vm/banger/internal/network/firewall"
	"github.com/banger-vm/banger/internal/network/ruleset"
)

// keeper does in the background what nobody should wait for: it keeps taps
// ready, removes used ones, and puts rules back that another program took away.
// It also holds the resolver.
type keeper struct {
	rules    watch
	resolver resolver
	cancel   context.CancelFunc
	wake     chan struct{}
	wg       sync.WaitGroup
}

func (n *Network) startKeeper() error {
	if n.keeper != nil {
		return nil
	}
	rules, err := n.host.watchRules()
	if err != nil {
		return err
	}
	resolver, err := n.host.resolve(n.cfg, n.serves)
	if err != nil {
		return errors.Join(err, rules.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{rules: rules, resolver: resolver, cancel: cancel, wake: make(chan struct{}, 1)}
	n.background(&k.wg, func() { n.keep(ctx, k) })
	n.keeper = k
	return nil
}

// stopKeeper waits for it, so it must not be called with the lock held.
func (n *Network) stopKeeper() {
	n.mu.Lock()
	k := n.keeper
	n.keeper = nil
	n.mu.Unlock()
	if k == nil {
		return
	}
	k.cancel()
	k.wg.Wait()
	if err := errors.Join(k.rules.Close(), k.resolver.Close()); err != nil {
		n.log.Warn("cannot end the network's watch or its resolver", "error", err)
	}
}

// wakeKeeper makes it look at the taps, unless the network is being closed.
func (n *Network) wakeKeeper() {
	if n.keeper == nil {
		return
	}
	select {
	case n.keeper.wake <- struct{}{}:
	default:
	}
}

func (n *Network) keep(ctx context.Context, k *keeper) {
	var walls settling
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
			if err := n.tidyUntil(ctx); err != nil {
				n.log.Warn("cannot keep taps ready", "error", err)
			}
		case <-k.rules.Changed():
			change := k.rules.Take()
			if err := n.repair(change); err != nil {
				n.log.Error("cannot put banger's rules back", "error", err)
			}
			walls.note(change)
		case <-walls.settled():
			if err := n.reopen(ctx, walls.take()); err != nil {
				n.log.Error("cannot get the bridge past the host's firewall again", "error", err)
			}
		}
	}
}

// repair writes our own rules again when another program has changed them,
// such as one that flushes all rules there are.
func (n *Network) repair(c ruleset.Change) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.up || !n.cfg.touched(c) {
		return nil
	}
	n.log.Warn("another program changed banger's rules: they are put back")
	return n.replaceRules(sorted(n.attached))
}

// reopen puts the accept rules back that a firewall has dropped in a reload.
func (n *Network) reopen(ctx context.Context, c ruleset.Change) error {
	up, err := n.reopenChains(c)
	if up && firewall.ConcernsFirewalld(c) {
		// Outside the lock, for it may take a while to answer.
		n.host.openFirewalld(ctx, n.cfg)
	}
	return err
}

func (n *Network) reopenChains(c ruleset.Change) (up bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.up && firewall.ConcernsChains(c) {
		err = n.host.openChains(n.cfg)
	}
	return n.up, err
}

func (c Config) touched(change ruleset.Change) bool {
	for _, t := range c.tables(nil, circumstances{}) {
		if change.Tables[ruleset.TableID{Family: t.Family, Name: t.Name}] {
			return true
		}
	}
	return change.Lost
}

// tidyUntil brings the taps that no VM has to what is wanted, one at a time so
// that a VM's start never waits for more than one.
func (n *Network) tidyUntil(ctx context.Context) error {
	for ctx.Err() == nil {
		n.mu.Lock()
		more, err := n.tidyOne()
		n.mu.Unlock()
		if !more || err != nil {
			return err
		}
	}
	return nil
}

// tidyAll does the same at once.
func (n *Network) tidyAll() error {
	for {
		more, err := n.tidyOne()
		if !more || err != nil {
			return err
		}
	}
}

// tidyOne removes one tap that should not be there, or else makes one that
// should; more says that it found one.
func (n *Network) tidyOne() (more bool, err error) {
	links, err := n.ours()
	if err != nil {
		return false, err
	}
	ready := n.readySlots()
	for _, name := range slices.Sorted(maps.Keys(links)) {
		if n.isLeftover(links[name], ready) {
			delete(n.used, name)
			return true, n.host.removeLink(name)
		}
	}
	for _, slot := range ready {
		if _, there := links[n.cfg.tap(slot)]; !there && n.up {
			return true, n.host.makeTap(n.cfg, slot)
		}
	}
	return false, nil
}

// isLeftover says whether the link is a tap that no VM has and that is not one
// to keep ready. One that a program has open and no VM of ours had is a VMM
// that is being ended: it gets no packet through, and goes when it is let go.
func (n *Network) isLeftover(l link, ready []int) bool {
	slot, isTap := n.cfg.slotOf(l.name)
	if _, attached := n.attached[l.name]; !isTap || attached {
		return false
	}
	if n.used[l.name] {
		return true
	}
	return !l.held && (!slices.Contains(ready, slot) || l.owner != n.cfg.UIDBase+slot)
}

// readySlots are the lowest that no VM has, for these are given next.
func (n *Network) readySlots() []int {
	var ready []int
	for slot := 0; slot < n.cfg.slots() && len(ready) < n.cfg.Ready; slot++ {
		if _, attached := n.attached[n.cfg.tap(slot)]; !attached {
			ready = append(ready, slot)
		}
	}
	return ready
}
