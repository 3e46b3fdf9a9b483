package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/buildcontext"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

type imageBuildOptions struct {
	machineOptions // of the builder
	context        string
	file           string
	tag            string
	args           []string
	target         string
	noCache        bool
	kernelRef      string
	maxSize        string
	json           bool
}

func newImageBuildCommand(d *deps) *cobra.Command {
	o := imageBuildOptions{context: ".", machineOptions: machineOptions{noCredentials: true}}
	c := &cobra.Command{
		Use:   "build [directory] -t <image>",
		Short: "Make an image of a Dockerfile",
		Long: `Make an image of a Dockerfile and the files of a directory, the current one unless
named. Docker builds it, in a VM of its own that is gone afterwards; this host needs no
Docker. What .dockerignore names stays here. Docker's own words go to standard error; when
it can't build the Dockerfile the exit status is 1.

The VM has the outside's network and none of your credentials, so what FROM names must be
public. Nothing is kept from one build for the next.`,
		Example: `  banger image build -t app
  banger image build -f docker/app.Dockerfile --build-arg VERSION=3 -t app ./src`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.context = args[0]
			}
			return runImageBuild(c.Context(), o, d)
		},
	}
	c.Flags().StringVarP(&o.file, "file", "f", "", "the Dockerfile, a `path` from the current directory, or - (default: Dockerfile in the directory)")
	c.Flags().StringVarP(&o.tag, "tag", "t", "", "the image's `name`")
	c.Flags().StringArrayVar(&o.args, "build-arg", nil, "set `NAME=VALUE` for an ARG of the Dockerfile; NAME alone takes the value it has here")
	c.Flags().StringVar(&o.target, "target", "", "the `stage` to build, instead of the last one")
	c.Flags().BoolVar(&o.noCache, "no-cache", false, "as of docker build; each build starts from nothing anyway")
	c.Flags().StringVar(&o.kernelRef, "kernel-ref", "", "the `kernel` that the image starts with unless told otherwise")
	c.Flags().StringVar(&o.maxSize, "max-size", "", "how much the image may unpack to, as a `size` (default 32G)")
	c.Flags().StringVar(&o.image, "builder", "", "`image` with Docker in it, to build in (default: default_image_name of the config)")
	c.Flags().IntVar(&o.vcpus, "vcpus", 0, "the builder's `number` of processors (default: default_vcpus of the config)")
	c.Flags().StringVar(&o.memory, "memory", "", "the builder's memory, as a `size` (default: default_memory of the config)")
	c.Flags().StringVar(&o.disk, "disk", "", "the builder's disk, as a `size`: for the files, the layers and the image (default: default_disk of the config)")
	completeFlag(c, "kernel-ref", d.completeKernels)
	completeFlag(c, "builder", d.completeImages)
	addJSON(c, &o.json)
	return c
}

func runImageBuild(ctx context.Context, o imageBuildOptions, d *deps) error {
	if o.tag == "" {
		return bad("write `banger image build -t app`", "an image needs -t and a name")
	}
	builder, err := o.machineOptions.request()
	if err != nil {
		return err
	}
	builder.Remove = true
	receive := api.ReceiveImage{Name: o.tag, Kernel: o.kernelRef, Command: []string{"docker", "save", builtTag}}
	if receive.MaxMiB, err = parseSize("max-size", o.maxSize, 1); err != nil {
		return err
	}
	from, err := buildcontext.Open(o.context, o.file, d.in)
	if err != nil {
		return err
	}
	if err := d.client.CheckImage(ctx, api.CheckImage{Name: o.tag, Kernel: o.kernelRef}); err != nil {
		return err
	}
	if err := d.checkFits(ctx, from, builder); err != nil {
		return err
	}
	image, err := o.build(ctx, d, builder, from, receive)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}

// checkFits refuses a context that the builder's disk can't hold.
func (d *deps) checkFits(ctx context.Context, from *buildcontext.Context, builder api.CreateRequest) error {
	settings, err := config.Load(config.Options{})
	if err != nil {
		return err
	}
	size, err := from.Size()
	if err != nil {
		return err
	}
	free := cmp.Or(builder.DiskMiB, settings.DiskMiB) << 20
	if image, err := d.client.Image(ctx, cmp.Or(builder.Image, settings.DefaultImage)); err == nil { // it may be one that is yet to be pulled
		free = max(0, free-image.Used)
	}
	if size <= free {
		return nil
	}
	return bad("name what is not needed in .dockerignore, or give the builder a larger --disk",
		"%s has %s of files, and the builder's disk has %s free", from.Dir, ui.Bytes(size), ui.Bytes(free))
}

// build makes the image in a VM that goes with the build.
func (o imageBuildOptions) build(ctx context.Context, d *deps, builder api.CreateRequest, from *buildcontext.Context, receive api.ReceiveImage) (image api.Image, err error) {
	created, err := d.create(ctx, builder, o.json)
	if err != nil {
		return api.Image{}, err
	}
	defer func() { err = d.endSession(created, err) }()
	if err := d.sendContext(ctx, created.VM, from, o.json); err != nil {
		return api.Image{}, err
	}
	if err := o.runDocker(ctx, d, created.VM); err != nil {
		return api.Image{}, err
	}
	progress := d.progress(o.json)
	defer progress.Done()
	return d.client.ReceiveImage(ctx, created.VM.ID, receive, progress.Step)
}

// Where what is to be built lies in the builder, and what it is called there.
const (
	guestContext    = "/root/context"
	guestDockerfile = "/root/Dockerfile"
	builtTag        = "banger-build"
)

// sendContext brings all that Docker needs into the builder.
func (d *deps) sendContext(ctx context.Context, vm api.VM, from *buildcontext.Context, asJSON bool) error {
	progress := d.progress(asJSON)
	defer progress.Done()
	if _, err := d.client.WriteFile(ctx, vm.ID, guestDockerfile, copyMode, bytes.NewReader(from.Dockerfile), nil); err != nil {
		return err
	}
	if from.Ignore != nil {
		if _, err := d.client.WriteFile(ctx, vm.ID, guestDockerfile+".dockerignore", copyMode, bytes.NewReader(from.Ignore), nil); err != nil {
			return err
		}
	}
	moved, err := d.client.CopySome(ctx, vm.ID, from.Dir, guestContext, from.Keep, progress.Step)
	progress.Done()
	d.sayLeftOut(moved)
	return err
}

// lookForDocker ends with 127 where there is none, and with 0 where it is one
// that has BuildKit and must be asked for it; later ones want a plugin for that.
const (
	lookForDocker = `command -v docker >/dev/null || exit 127; docker --version | grep -q ' 20\.'`
	noDocker      = 127
)

// runDocker builds what lies in the builder.
func (o imageBuildOptions) runDocker(ctx context.Context, d *deps, vm api.VM) error {
	look, err := d.run(ctx, vm, api.ExecRequest{Argv: []string{"sh", "-c", lookForDocker}}, io.Discard)
	var told *api.Error
	if look == noDocker || errors.As(err, &told) && told.Kind == api.KindNoProgram {
		return bad("--builder takes an image with Docker in it, like debian-bookworm", "there is no Docker in image %s to build with", vm.Image)
	}
	if err != nil {
		return err
	}
	build := api.ExecRequest{Argv: o.docker(), Env: map[string]string{}}
	if look == 0 {
		build.Env["DOCKER_BUILDKIT"] = "1"
	}
	status, err := d.run(ctx, vm, build, o.words(d))
	if err == nil && status != 0 {
		return exitStatus(exitUnfit)
	}
	return err
}

// docker is the command line.
func (o imageBuildOptions) docker() []string {
	argv := []string{"docker", "build", "--file", guestDockerfile, "--tag", builtTag}
	for _, arg := range o.args {
		name, _, set := strings.Cut(arg, "=")
		if value, known := os.LookupEnv(name); !set && known {
			arg = name + "=" + value
		}
		argv = append(argv, "--build-arg", arg)
	}
	if o.target != "" {
		argv = append(argv, "--target", o.target)
	}
	if o.noCache {
		argv = append(argv, "--no-cache")
	}
	return append(argv, guestContext)
}

// words is where Docker's words go.
func (o imageBuildOptions) words(d *deps) io.Writer {
	if o.json {
		return ui.Lines("docker", d.progress(true))
	}
	return d.errs
}

// run runs a command without input in a VM, and gives its status.
func (d *deps) run(ctx context.Context, vm api.VM, req api.ExecRequest, said io.Writer) (int, error) {
	command, err := d.client.Exec(ctx, vm.ID, req)
	if err != nil {
		return 0, err
	}
	status, err := command.Run(ctx, nil, said, said)
	if errors.Is(err, client.ErrLost) {
		err = d.lost(vm)
	}
	return status, err
}
