package firewall

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

func in(name string) *nftables.Rule { return rule(accept(expr.MetaKeyIIFNAME, name)...) }

func rule(exprs ...expr.Any) *nftables.Rule { return &nftables.Rule{Exprs: exprs} }

func TestAccepts(t *testing.T) {
	name := []byte("banger0\x00")
	iif := &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}
	is := &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name}
	yes := &expr.Verdict{Kind: expr.VerdictAccept}
	for _, test := range []struct {
		what string
		rule *nftables.Rule
		ours bool
	}{
		{"ours", in("banger0"), true},
		{"ours, restored by iptables", rule(iif, is, &expr.Match{Name: "comment"}, &expr.Counter{}, yes), true},
		{"ours, in all 16 bytes", rule(iif, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make16("banger0")}, yes), true},
		{"another bridge's", in("banger01"), false},
		{"one for all whose name begins so", rule(iif, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("banger0")}, yes), false},
		{"all but ours", rule(iif, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name}, yes), false},
		{"a drop", rule(iif, is, &expr.Verdict{Kind: expr.VerdictDrop}), false},
		{"one with another match", rule(iif, is, &expr.Match{Name: "tcp"}, yes), false},
		{"an accept of all", rule(yes), false},
		{"an empty one", rule(), false},
	} {
		if _, ours := accepts(test.rule, "banger0"); ours != test.ours {
			t.Errorf("%s: ours is %v", test.what, ours)
		}
	}
}

func make16(name string) []byte {
	b := make([]byte, 16)
	copy(b, name)
	return b
}

func TestReturnAtTheEnd(t *testing.T) {
	back := &expr.Verdict{Kind: expr.VerdictReturn}
	if !isReturn(rule(&expr.Counter{}, back)) || isReturn(in("banger0")) || isReturn(rule(&expr.Meta{Key: expr.MetaKeyIIFNAME}, back)) {
		t.Error("a bare return is not told from other rules")
	}
}

func TestConcerns(t *testing.T) {
	of := func(f nftables.TableFamily, name string) ruleset.Change {
		return ruleset.Change{Tables: map[ruleset.TableID]bool{{Family: f, Name: name}: true}}
	}
	for _, test := range []struct {
		what              string
		change            ruleset.Change
		chains, firewalld bool
	}{
		{"iptables", of(nftables.TableFamilyIPv4, "filter"), true, false},
		{"ip6tables", of(nftables.TableFamilyIPv6, "filter"), false, false},
		{"firewalld", of(nftables.TableFamilyINet, "firewalld"), false, true},
		{"banger itself", of(nftables.TableFamilyINet, "banger-banger0"), false, false},
		{"what was lost", ruleset.Change{Lost: true}, true, true},
		{"nothing", ruleset.Change{}, false, false},
	} {
		if c, f := ConcernsChains(test.change), ConcernsFirewalld(test.change); c != test.chains || f != test.firewalld {
			t.Errorf("a change of %s concerns chains: %v, firewalld: %v", test.what, c, f)
		}
	}
}
