package ruleset

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Find gives the rules with the comment that the kernel has in the table. The
// error is [Missing] where the table is not there.
func Find(t Table, comment string) ([]*nftables.Rule, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	owner := &nftables.Table{Family: t.Family, Name: t.Name}
	var found []*nftables.Rule
	for _, chain := range t.Chains {
		rules, err := c.GetRules(owner, &nftables.Chain{Table: owner, Name: chain.Name})
		if err != nil {
			return nil, fmt.Errorf("cannot read nftables rules: %w", err)
		}
		for _, r := range rules {
			if said, _ := userdata.GetString(r.UserData, userdata.TypeComment); said == comment {
				found = append(found, r)
			}
		}
	}
	return found, nil
}

// Packets is how many packets the rules have counted since they were written.
func Packets(rules []*nftables.Rule) (packets uint64) {
	for _, r := range rules {
		for _, e := range r.Exprs {
			if counter, ok := e.(*expr.Counter); ok {
				packets += counter.Packets
			}
		}
	}
	return packets
}
