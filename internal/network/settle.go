package network

import (
	"time"

	"github.com/banger-vm/banger/internal/network/firewall"
	"github.com/banger-vm/banger/internal/network/ruleset"
)

// A reload of ufw is some hundred runs of iptables in a row, a few hundredths of
// a second apart; a rule that is put into its chains between two of them makes
// it fail (tried: the chain that it has emptied and would delete is in use
// again). So the host's firewalls are answered when they have been quiet for a
// while, or, where rules change all the time, now and then.
const (
	quiet    = time.Second
	patience = 15 * time.Second
)

// settling collects changes of the host's firewalls until they come to rest.
// Its zero value is ready.
type settling struct {
	change ruleset.Change
	since  time.Time // of the first
	timer  *time.Timer
}

// note takes a change into account if it is one of a firewall's.
func (s *settling) note(c ruleset.Change) {
	if !firewall.ConcernsChains(c) && !firewall.ConcernsFirewalld(c) {
		return
	}
	if s.timer == nil {
		s.since = time.Now()
		s.timer = time.NewTimer(quiet)
	} else if time.Since(s.since) < patience {
		s.timer.Reset(quiet)
	}
	s.change = s.change.And(c)
}

// settled receives when there are changes and no more come; nil, which never
// receives, while there are none.
func (s *settling) settled() <-chan time.Time {
	if s.timer == nil {
		return nil
	}
	return s.timer.C
}

// take gives all that was noted and begins anew.
func (s *settling) take() ruleset.Change {
	c := s.change
	*s = settling{}
	return c
}
