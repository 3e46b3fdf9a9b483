package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Change is what another program did to the rules since the last Change was
// read.
type Change struct {
	// Tables are those in which anything was touched.
	Tables map[TableID]bool
	// Lost says that there was more than could be told: anything may have
	// changed.
	Lost bool
}

// And gives both changes as one.
func (c Change) And(d Change) Change {
	both := Change{Tables: map[TableID]bool{}, Lost: c.Lost || d.Lost}
	maps.Copy(both.Tables, c.Tables)
	maps.Copy(both.Tables, d.Tables)
	return both
}

// TableID names a table.
type TableID struct {
	Family nftables.TableFamily
	Name   string
}

// Watch hears of every transaction on the rules that is not the kernel k's
// own.
type Watch struct {
	k      *Kernel
	file   *os.File
	notify chan struct{}
	done   chan struct{}

	mu   sync.Mutex
	seen Change
}

// Attribute and group numbers of linux/netfilter/nfnetlink.h and nf_tables.h.
const (
	nftablesGroup = 7 // NFNLGRP_NFTABLES
	// nameAttr is NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and so on:
	// the name of the table is the first attribute of every message but that of
	// a generation.
	nameAttr        = 1
	nfgenmsgLen     = 4
	netlinkAttrHead = 4
)

// NewWatch begins to listen.
func (k *Kernel) NewWatch() (*Watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot open a netlink socket: %w", err)
	}
	if err := join(fd); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot listen to changes of nftables rules: %w", err)
	}
	w := &Watch{k: k, file: os.NewFile(uintptr(fd), "nftables"), notify: make(chan struct{}, 1), done: make(chan struct{})}
	go w.listen()
	return w, nil
}

func join(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, nftablesGroup)
}

// Changed receives a value when there is a [Change] to take.
func (w *Watch) Changed() <-chan struct{} { return w.notify }

// Take gives what changed since the last Take.
func (w *Watch) Take() Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.seen
	w.seen = Change{}
	return c
}

// Close ends listening and waits for its end.
func (w *Watch) Close() error {
	err := w.file.Close()
	<-w.done
	return err
}

func (w *Watch) listen() {
	defer close(w.done)
	buf := make([]byte, 1<<16)
	for {
		n, err := w.file.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			w.note(func(c *Change) { c.Lost = true })
		case err != nil:
			return
		default:
			w.parse(buf[:n])
		}
	}
}

func (w *Watch) note(set func(*Change)) {
	w.mu.Lock()
	set(&w.seen)
	w.mu.Unlock()
	select {
	case w.notify <- struct{}{}:
	default:
	}
}

// parse notes the tables of the messages of others. A message has the header
// of struct nlmsghdr, struct nfgenmsg, and attributes.
func (w *Watch) parse(b []byte) {
	for len(b) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.NLMSG_HDRLEN || length > len(b) {
			return
		}
		w.message(b[:length])
		b = b[min(align(length), len(b)):]
	}
}

func (w *Watch) message(m []byte) {
	kind := binary.NativeEndian.Uint16(m[4:])
	port := binary.NativeEndian.Uint32(m[12:])
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || kind&0xff == unix.NFT_MSG_NEWGEN || w.k.own(port) {
		return
	}
	id, ok := tableOf(m[unix.NLMSG_HDRLEN:])
	if !ok {
		return
	}
	w.note(func(c *Change) {
		if c.Tables == nil {
			c.Tables = map[TableID]bool{}
		}
		c.Tables[id] = true
	})
}

func tableOf(m []byte) (TableID, bool) {
	if len(m) < nfgenmsgLen {
		return TableID{}, false
	}
	family := nftables.TableFamily(m[0])
	for m = m[nfgenmsgLen:]; len(m) >= netlinkAttrHead; {
		length := int(binary.NativeEndian.Uint16(m))
		if length < netlinkAttrHead || length > len(m) {
			return TableID{}, false
		}
		if binary.NativeEndian.Uint16(m[2:])&^uint16(unix.NLA_F_NESTED) == nameAttr {
			return TableID{family, strings.TrimRight(string(m[netlinkAttrHead:length]), "\x00")}, true
		}
		m = m[min(align(length), len(m)):]
	}
	return TableID{}, false
}

func align(n int) int { return (n + 3) &^ 3 }
