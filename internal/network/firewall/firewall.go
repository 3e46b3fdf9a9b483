// Package firewall gets a bridge's traffic past the host's own firewalls.
//
// In netfilter an accept ends one table, a drop ends the packet. So beside a
// firewall that drops what it does not know, the bridge needs accept rules in
// that firewall's own tables: in Docker's chain DOCKER-USER, in ufw's chains for
// the user's rules, in a zone of firewalld. They accept the bridge as a whole;
// what guests may do is decided in banger's tables, whose drops are as final.
package firewall

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// comment is what people see beside the rules in iptables -S.
const comment = "banger"

// filterTable is where iptables-nft keeps the chains of Docker and ufw.
var filterTable = &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}

// place is a chain in which a firewall lets others put rules.
type place struct {
	chain string
	keys  []expr.MetaKey // the directions to accept there
}

var places = []place{
	{"DOCKER-USER", []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME}},
	{"ufw-user-forward", []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME}},
	{"ufw-user-input", []expr.MetaKey{expr.MetaKeyIIFNAME}},
}

// ConcernsChains says whether a change of rules by another program is one after
// which [Open] must be called again.
func ConcernsChains(c ruleset.Change) bool {
	return c.Lost || c.Tables[ruleset.TableID{Family: nftables.TableFamilyIPv4, Name: "filter"}]
}

// Open puts the bridge's accept rules into every place there is and where they
// are missing. It gives the chains that hold them now.
func Open(k *ruleset.Kernel, bridge string) ([]string, error) {
	there, err := chains()
	if err != nil {
		return nil, err
	}
	var open []string
	for _, p := range places {
		if !there[p.chain] {
			continue
		}
		if err := p.open(k, bridge); err != nil {
			return open, fmt.Errorf("cannot put accept rules into chain %s: %w", p.chain, err)
		}
		open = append(open, p.chain)
	}
	return open, nil
}

// Places gives the chains that [Open] would put rules into.
func Places() ([]string, error) {
	there, err := chains()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range places {
		if there[p.chain] {
			names = append(names, p.chain)
		}
	}
	return names, nil
}

// Close takes them away again, wherever they are.
func Close(k *ruleset.Kernel, bridge string) error {
	there, err := chains()
	if err != nil {
		return err
	}
	for _, p := range places {
		if !there[p.chain] {
			continue
		}
		if err := p.close(k, bridge); err != nil {
			return fmt.Errorf("cannot take accept rules out of chain %s: %w", p.chain, err)
		}
	}
	return nil
}

// chains gives the names of the chains in the filter table, none where there
// is no such table.
func chains() (map[string]bool, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	list, err := c.ListChainsOfTableFamily(filterTable.Family)
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables chains: %w", err)
	}
	names := map[string]bool{}
	for _, chain := range list {
		if isFilter(chain.Table) {
			names[chain.Name] = true
		}
	}
	return names, nil
}

// HasDocker says whether Docker filters in this network namespace.
func HasDocker() (bool, error) {
	there, err := chains()
	return there["DOCKER-USER"], err
}

func (p place) open(k *ruleset.Kernel, bridge string) error {
	rules, err := p.rules()
	if err != nil {
		return err
	}
	missing := p.missing(rules, bridge)
	if len(missing) == 0 {
		return nil
	}
	return k.Change(func(c *nftables.Conn) error {
		for _, key := range missing {
			p.put(c, accept(key, bridge), rules)
		}
		return nil
	})
}

func (p place) close(k *ruleset.Kernel, bridge string) error {
	rules, err := p.rules()
	if err != nil {
		return err
	}
	return k.Change(func(c *nftables.Conn) error {
		for _, r := range rules {
			if _, ours := accepts(r, bridge); !ours {
				continue
			}
			if err := c.DelRule(r); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p place) rules() ([]*nftables.Rule, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	return c.GetRules(filterTable, &nftables.Chain{Name: p.chain, Table: filterTable})
}

func (p place) missing(rules []*nftables.Rule, bridge string) []expr.MetaKey {
	have := map[expr.MetaKey]bool{}
	for _, r := range rules {
		if key, ours := accepts(r, bridge); ours {
			have[key] = true
		}
	}
	var missing []expr.MetaKey
	for _, key := range p.keys {
		if !have[key] {
			missing = append(missing, key)
		}
	}
	return missing
}

// put adds a rule after those of the host's owner, whose word comes first, but
// before the bare return that older versions of Docker end their chain with.
func (p place) put(c *nftables.Conn, exprs []expr.Any, rules []*nftables.Rule) {
	rule := &nftables.Rule{
		Table: filterTable, Chain: &nftables.Chain{Name: p.chain, Table: filterTable}, Exprs: exprs,
		UserData: userdata.AppendString(nil, userdata.TypeComment, comment),
	}
	if len(rules) > 0 && isReturn(rules[len(rules)-1]) {
		rule.Position = rules[len(rules)-1].Handle
		c.InsertRule(rule)
		return
	}
	c.AddRule(rule)
}

// accept is a rule in the very form that iptables-nft gives its own, so that
// iptables -S and iptables-save still read the chain.
func accept(key expr.MetaKey, bridge string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte(bridge), 0)},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// accepts recognises such a rule by what it does, not by its comment: a host
// that saves and restores its rules brings them back in another dress.
func accepts(r *nftables.Rule, bridge string) (expr.MetaKey, bool) {
	core := coreOf(r)
	if len(core) != 3 {
		return 0, false
	}
	meta, isMeta := core[0].(*expr.Meta)
	cmp, isCmp := core[1].(*expr.Cmp)
	verdict, isVerdict := core[2].(*expr.Verdict)
	if !isMeta || !isCmp || !isVerdict {
		return 0, false
	}
	ours := cmp.Op == expr.CmpOpEq && string(bytes.TrimRight(cmp.Data, "\x00")) == bridge && len(cmp.Data) > len(bridge) &&
		verdict.Kind == expr.VerdictAccept
	return meta.Key, ours
}

func isReturn(r *nftables.Rule) bool {
	core := coreOf(r)
	if len(core) != 1 {
		return false
	}
	verdict, ok := core[0].(*expr.Verdict)
	return ok && verdict.Kind == expr.VerdictReturn
}

// coreOf leaves out counters and comments.
func coreOf(r *nftables.Rule) []expr.Any {
	var core []expr.Any
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Match); ok && m.Name == "comment" {
			continue
		}
		if _, ok := e.(*expr.Counter); ok {
			continue
		}
		core = append(core, e)
	}
	return core
}

// UsesLegacyTables says whether old iptables tables, which nftables cannot
// see, filter in this network namespace: there nobody can put rules but the
// program iptables-legacy.
func UsesLegacyTables() bool {
	names, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil {
		return false
	}
	for name := range strings.FieldsSeq(string(names)) {
		if name == "filter" {
			return true
		}
	}
	return false
}

// Blocking names the chains of other programs that drop forwarded traffic by
// default and offer no place for the bridge's rules, as "table ip filter, chain
// FORWARD". They are for a person to mend.
func Blocking(open []string) ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables chains: %w", err)
	}
	var blocking []string
	for _, chain := range chains {
		if dropsForwarded(chain) && !(isFilter(chain.Table) && len(open) > 0) {
			blocking = append(blocking, fmt.Sprintf("table %s %s, chain %s", family(chain.Table.Family), chain.Table.Name, chain.Name))
		}
	}
	return blocking, nil
}

func dropsForwarded(c *nftables.Chain) bool {
	v4 := c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyINet
	return v4 && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward &&
		c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

func isFilter(t *nftables.Table) bool {
	return t.Family == filterTable.Family && t.Name == filterTable.Name
}

func family(f nftables.TableFamily) string {
	if f == nftables.TableFamilyINet {
		return "inet"
	}
	return "ip"
}
