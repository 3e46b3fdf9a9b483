package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/daemon/op"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/progress"
)

// postImagesCheck says now what would be said when an image is there and can't
// be kept.
func (d *Daemon) postImagesCheck(w http.ResponseWriter, r *http.Request) error {
	var req api.CheckImage
	if err := read(w, r, &req); err != nil {
		return err
	}
	if err := d.Images.CheckNew(r.Context(), req.Name); err != nil {
		return err
	}
	if err := d.checkKernel(image.Image{Name: req.Name, Kernel: req.Kernel}); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

// postVMImage makes an image of a container image that is in a VM.
func (d *Daemon) postVMImage(w http.ResponseWriter, r *http.Request) error {
	var req api.ReceiveImage
	if err := read(w, r, &req); err != nil {
		return err
	}
	if len(req.Command) == 0 {
		return &api.Error{Kind: api.KindBadRequest, Message: "which command writes the image?", Hint: `like "command": ["docker", "save", "app"]`}
	}
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("image receive", "vm", r.PathValue("vm"), "image", req.Name)
	made, err := d.receive(ctx, r.PathValue("vm"), req, o.Report)
	d.finishImage(o, made, err)
	return nil
}

func (d *Daemon) receive(ctx context.Context, vm string, req api.ReceiveImage, report progress.Func) (image.Image, error) {
	if err := d.checkKernel(image.Image{Name: req.Name, Kernel: req.Kernel}); err != nil {
		return image.Image{}, err
	}
	write := func(ctx context.Context, to io.Writer) error { return d.output(ctx, vm, req.Command, to) }
	made, err := d.Images.Receive(ctx, api.PullImage{Name: req.Name, Kernel: req.Kernel, MaxMiB: req.MaxMiB}, write, report)
	if err != nil {
		return image.Image{}, err
	}
	return d.withKernel(ctx, made, report)
}

// output copies what a command in a VM says.
func (d *Daemon) output(ctx context.Context, vm string, argv []string, to io.Writer) error {
	conn, err := d.VMs.Exec(ctx, vm, api.WaitDefault, proto.Exec{Argv: argv, Container: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var said complaints
	out := &output{Writer: to}
	status, err := proto.NewCommand(conn).Run(nil, out, &said)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case out.err != nil:
		return out.err
	case err != nil:
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("cannot run %s in VM %s: %v", argv[0], vm, err)}
	case status != 0:
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("%s in VM %s ended with status %d: %s", strings.Join(argv, " "), vm, status, said)}
	}
	return nil
}

// output remembers its own error, to tell it from the guest's.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	o.err = errors.Join(o.err, err)
	return n, err
}

// complaints are the beginning of what a command says of its failure.
type complaints []byte

func (c *complaints) Write(p []byte) (int, error) {
	*c = append(*c, p[:min(len(p), proto.MaxText-len(*c))]...)
	return len(p), nil
}

func (c complaints) String() string { return proto.Clean(strings.TrimSpace(string(c)), proto.MaxText) }
