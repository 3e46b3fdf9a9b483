package fctest

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/banger-vm/banger/internal/firecracker/fctest/script"
)

// TestGuest is the suite's guest as a function. It dies, saying why on the
// console, when it cannot do what it is for.
func TestGuest(ctx context.Context, g *Guest) {
	if err := script.Run(ctx, platform{g}); err != nil {
		fmt.Fprintf(g.Console, "testguest: cannot run: %v\n", err)
	}
}

type platform struct{ *Guest }

func (p platform) Console() io.Writer          { return p.Guest.Console }
func (p platform) Cmdline() string             { return p.Config.Cmdline }
func (p platform) CtrlAltDel() <-chan struct{} { return p.Guest.CtrlAltDel }

// PowerOff leaves the machine as it is: nothing runs in it any more.
func (p platform) PowerOff() {}

func (p platform) DialHost(ctx context.Context, port uint32) (net.Conn, error) {
	return p.Guest.DialHost(ctx, port)
}

func (p platform) Networks() ([]string, error) {
	var macs []string
	for _, n := range p.Config.Networks {
		macs = append(macs, n.GuestMAC)
	}
	return macs, nil
}

func (p platform) Disks() ([]script.Disk, error) {
	var disks []script.Disk
	for i := range p.Config.Drives {
		d := p.Drive(i)
		info, err := d.File.Stat()
		if err != nil {
			return nil, err
		}
		head, err := script.Head(d.File)
		if err != nil {
			return nil, err
		}
		disks = append(disks, script.Disk{
			Name: fmt.Sprintf("vd%c", 'a'+i), Sectors: info.Size() / 512, ReadOnly: d.ReadOnly, Head: head,
		})
	}
	return disks, nil
}
