package ruleset

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Kernel changes the rules of the process's network namespace. Its zero value
// is ready.
type Kernel struct {
	mu    sync.Mutex
	ports [32]uint32 // netlink ports of the latest transactions, so that a Watch knows them
	next  int
}

// Replace makes the tables be exactly these, in one transaction: packets see
// the old ones or the new ones, never none.
func (k *Kernel) Replace(tables []Table) error {
	return k.transact(func(c *nftables.Conn) error {
		for _, t := range tables {
			dropTable(c, t.Family, t.Name)
			if err := addTable(c, t); err != nil {
				return err
			}
		}
		return nil
	})
}

// Remove takes the tables away. One that is not there is no error.
func (k *Kernel) Remove(tables []Table) error {
	return k.transact(func(c *nftables.Conn) error {
		for _, t := range tables {
			dropTable(c, t.Family, t.Name)
		}
		return nil
	})
}

// Update takes elements out of a set of the table and puts others in, in one
// transaction.
func (k *Kernel) Update(t Table, set *Set, remove, add []Element) error {
	return k.transact(func(c *nftables.Conn) error {
		s := kernelSet(&nftables.Table{Family: t.Family, Name: t.Name}, set)
		if len(remove) > 0 {
			if err := c.SetDeleteElements(s, elements(remove)); err != nil {
				return err
			}
		}
		if len(add) > 0 {
			return c.SetAddElements(s, elements(add))
		}
		return nil
	})
}

// Change runs one transaction of the caller's making.
func (k *Kernel) Change(fill func(*nftables.Conn) error) error { return k.transact(fill) }

// Missing says whether an error of this package means that a table, set or
// element was not there: someone else took it away.
func Missing(err error) bool { return errors.Is(err, unix.ENOENT) }

func (k *Kernel) transact(fill func(*nftables.Conn) error) error {
	c, err := nftables.New(nftables.WithSockOptions(k.remember))
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	if err := fill(c); err != nil {
		return fmt.Errorf("cannot write nftables rules: %w", err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot change nftables rules: %w", err)
	}
	return nil
}

// remember notes the port that the kernel will tell with each change.
func (k *Kernel) remember(c *netlink.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var addr unix.Sockaddr
	var nameErr error
	if err := raw.Control(func(fd uintptr) { addr, nameErr = unix.Getsockname(int(fd)) }); err != nil {
		return err
	}
	local, ok := addr.(*unix.SockaddrNetlink)
	if nameErr != nil || !ok {
		return fmt.Errorf("cannot tell the port of a netlink socket: %w", nameErr)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ports[k.next] = local.Pid
	k.next = (k.next + 1) % len(k.ports)
	return nil
}

func (k *Kernel) own(port uint32) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.ports {
		if p == port {
			return true
		}
	}
	return false
}

// dropTable removes a table whether it is there or not: a table can always be
// added, and what was added can be deleted.
func dropTable(c *nftables.Conn, family nftables.TableFamily, name string) {
	t := &nftables.Table{Family: family, Name: name}
	c.AddTable(t)
	c.DelTable(t)
}

func addTable(c *nftables.Conn, t Table) error {
	table := c.AddTable(&nftables.Table{Family: t.Family, Name: t.Name})
	for i, s := range t.Sets {
		set := kernelSet(table, s)
		set.ID = uint32(i) + 1 // counts within the transaction
		if err := c.AddSet(set, elements(s.Elements)); err != nil {
			return err
		}
	}
	for _, chain := range t.Chains {
		addChain(c, table, chain)
	}
	return nil
}

func addChain(c *nftables.Conn, table *nftables.Table, chain Chain) {
	policy := nftables.ChainPolicyAccept
	added := c.AddChain(&nftables.Chain{
		Name: chain.Name, Table: table, Type: chain.Type,
		Hooknum: chain.Hook, Priority: chain.Priority, Policy: &policy,
	})
	for _, r := range chain.Rules {
		c.AddRule(&nftables.Rule{Table: table, Chain: added, Exprs: r.Exprs(), UserData: commentData(r.Comment)})
	}
}

func commentData(comment string) []byte {
	if comment == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, comment)
}

func kernelSet(table *nftables.Table, s *Set) *nftables.Set {
	set := &nftables.Set{
		Table: table, Name: s.Name, Dynamic: s.Size > 0, Size: s.Size,
		KeyType: nftables.MustConcatSetType(s.Types...),
		// A link's name is text; nft asks for the order of its bytes all the same.
		KeyByteOrder: binaryutil.NativeEndian,
	}
	if s.Types[0] == nftables.TypeIPAddr {
		set.KeyByteOrder = binaryutil.BigEndian
	}
	return set
}

func elements(list []Element) []nftables.SetElement {
	var out []nftables.SetElement
	for _, e := range list {
		out = append(out, nftables.SetElement{Key: e.Key})
	}
	return out
}
