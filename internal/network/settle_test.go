package network

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/nftables"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// filterChanged is what a firewall that uses iptables does.
func filterChanged() ruleset.Change {
	return ruleset.Change{Tables: map[ruleset.TableID]bool{{Family: nftables.TableFamilyIPv4, Name: "filter"}: true}}
}

func TestAFirewallIsAnsweredWhenItIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s settling
		began := time.Now()
		for range 5 {
			s.note(filterChanged())
			time.Sleep(quiet - time.Millisecond) // the test's clock jumps
		}
		<-s.settled()
		if took := time.Since(began); took != 4*(quiet-time.Millisecond)+quiet {
			t.Errorf("answered after %v", took)
		}
		if c := s.take(); len(c.Tables) != 1 {
			t.Errorf("changes are %v", c)
		}
		if s.settled() != nil {
			t.Error("it is answered again without a change")
		}
	})
}

func TestAFirewallThatIsNeverQuietIsAnsweredNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s settling
		began := time.Now()
		for range 1000 {
			s.note(filterChanged())
			select {
			case <-s.settled():
				if took := time.Since(began); took < patience || took > patience+2*quiet {
					t.Errorf("answered after %v", took)
				}
				return
			case <-time.After(quiet / 2):
			}
		}
		t.Error("never answered")
	})
}

func TestChangesOfOthersAreNotWaitedFor(t *testing.T) {
	var s settling
	s.note(ruleset.Change{Tables: map[ruleset.TableID]bool{{Family: nftables.TableFamilyINet, Name: "other"}: true}})
	if s.settled() != nil {
		t.Error("a table that is no firewall's is answered")
	}
}
