package ruleset

import (
	"encoding/binary"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// message is what the kernel tells of a rule in a table.
func message(kind uint16, port uint32, family nftables.TableFamily, table string) []byte {
	attr := binary.NativeEndian.AppendUint16(nil, uint16(netlinkAttrHead+len(table)+1))
	attr = binary.NativeEndian.AppendUint16(attr, nameAttr)
	attr = append(append(attr, table...), 0)
	for len(attr)%4 != 0 {
		attr = append(attr, 0)
	}
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+nfgenmsgLen+len(attr)))
	m = binary.NativeEndian.AppendUint16(m, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	m = binary.NativeEndian.AppendUint16(m, 0)
	m = binary.NativeEndian.AppendUint32(m, 0)
	m = binary.NativeEndian.AppendUint32(m, port)
	m = append(m, byte(family), 0, 0, 0)
	return append(m, attr...)
}

func newTestWatch() *Watch {
	return &Watch{k: &Kernel{ports: [32]uint32{7: 4242}}, notify: make(chan struct{}, 1)}
}

func TestWatchTellsOthersFromItself(t *testing.T) {
	w := newTestWatch()
	w.parse(message(unix.NFT_MSG_NEWRULE, 4242, nftables.TableFamilyINet, "own"))
	w.parse(message(unix.NFT_MSG_NEWGEN, 99, nftables.TableFamilyINet, "generation"))
	select {
	case <-w.Changed():
		t.Errorf("it tells of %v", w.Take())
	default:
	}
	two := append(message(unix.NFT_MSG_DELTABLE, 99, nftables.TableFamilyINet, "x"), message(unix.NFT_MSG_NEWRULE, 1, nftables.TableFamilyIPv4, "filter")...)
	w.parse(two)
	<-w.Changed()
	c := w.Take()
	if len(c.Tables) != 2 || !c.Tables[TableID{nftables.TableFamilyINet, "x"}] || !c.Tables[TableID{nftables.TableFamilyIPv4, "filter"}] || c.Lost {
		t.Errorf("it tells of %v", c)
	}
	if again := w.Take(); len(again.Tables) != 0 {
		t.Errorf("it tells of %v once more", again)
	}
}

func FuzzWatch(f *testing.F) {
	f.Add(message(unix.NFT_MSG_NEWRULE, 99, nftables.TableFamilyINet, "x"))
	f.Add([]byte{})
	f.Add(message(unix.NFT_MSG_NEWRULE, 99, nftables.TableFamilyINet, "x")[:19])
	f.Fuzz(func(_ *testing.T, b []byte) { newTestWatch().parse(b) })
}
