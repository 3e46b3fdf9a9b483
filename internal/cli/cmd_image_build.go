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
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/buildcontext"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/registryauth"
)

type imageBuildOptions struct {
	machineOptions // of the builder
	context        string
	file           string
	tag            string
	args           []string
	target         string
	noCache        bool
	registries     []string // that the builder gets credentials for
	kernelRef      string
	maxSize        string
	json           bool
}

func newImageBuildCommand(d *deps) *cobra.Command {
	o := imageBuildOptions{context: ".", machineOptions: machineOptions{noCredentials: true}}
	c := &cobra.Command{
		Use:   "build [directory | -] -t <image>",
		Short: "Make an image of a Dockerfile",
		Long: `Make an image of a Dockerfile and the files of a directory, the current one unless
named. Docker builds it, in a VM of its own that is gone afterwards; this host needs no
Docker. What .dockerignore names stays here. Docker's own words go to standard error; when
it can't build the Dockerfile the exit status is 1.

With - the files come from standard input, as a tar archive that may be packed, or it is
a Dockerfile that needs none.

The VM has the outside's network and none of your credentials. --registry-auth gives Docker
there those for one registry, for private images that FROM and COPY --from name: in the
VM's memory only, and out of reach of RUN. Nothing is kept from one build for the next.`,
		Example: `  banger image build -t app
  banger image build -f docker/app.Dockerfile --build-arg VERSION=3 -t app ./src
  banger image build --registry-auth registry.example.com -t app
  git archive HEAD | banger image build -t app -`,
		Args: atMostOne("one directory, or -"),
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
	c.Flags().StringArrayVar(&o.registries, "registry-auth", nil, "let the Dockerfile pull from `registry` with your credentials, which docker login keeps; may be repeated")
	c.Flags().StringVar(&o.kernelRef, "kernel-ref", "", "the `kernel` that the image starts with unless told otherwise")
	c.Flags().StringVar(&o.maxSize, "max-size", "", "how much the image may unpack to, as a `size` (default 32G)")
	c.Flags().StringVar(&o.image, "builder", "", "`image` with Docker in it, to build in (default: default_image_name of the config)")
	c.Flags().Var(&o.vcpus, "vcpus", "the builder's `number` of processors (default: default_vcpus of the config)")
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
	if err := checkBuildArgs(o.args); err != nil {
		return err
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
	work := imageBuild{imageBuildOptions: o, deps: d}
	if work.from, err = o.open(ctx, d.in); err != nil {
		return err
	}
	if err := d.client.CheckImage(ctx, api.CheckImage{Name: o.tag, Kernel: o.kernelRef}); err != nil {
		return err
	}
	if err := d.checkFits(ctx, work.from, builder); err != nil {
		return err
	}
	if len(o.registries) > 0 {
		if work.auth, err = registryauth.Config(ctx, o.registries); err != nil {
			return err
		}
	}
	image, err := work.run(ctx, builder, receive)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}

// checkBuildArgs refuses what Docker would refuse, when the builder is up.
func checkBuildArgs(args []string) error {
	for _, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); name == "" {
			return bad("write NAME=VALUE, or NAME alone for the value that it has here", "--build-arg %q names no argument", arg)
		}
	}
	return nil
}

// open finds what is to be built. Nobody types a tar archive.
func (o imageBuildOptions) open(ctx context.Context, stdin io.Reader) (*buildcontext.Context, error) {
	if o.context == "-" && isTerminal(stdin) {
		return nil, bad("like `tar c . | banger image build -t app -`", "the context comes from standard input, which is a terminal")
	}
	return buildcontext.Open(ctx, o.context, o.file, stdin)
}

// checkFits refuses a context that the builder's disk can't hold. How large a
// stream is nobody knows.
func (d *deps) checkFits(ctx context.Context, from *buildcontext.Context, builder api.CreateRequest) error {
	if from.Stream != nil {
		return nil
	}
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

// imageBuild is one build.
type imageBuild struct {
	imageBuildOptions
	*deps
	from *buildcontext.Context
	auth []byte // a config.json of Docker's; nil: there are no credentials
}

// run makes the image in a VM that goes with the build.
func (b imageBuild) run(ctx context.Context, builder api.CreateRequest, receive api.ReceiveImage) (image api.Image, err error) {
	created, err := b.create(ctx, builder, b.json)
	if err != nil {
		return api.Image{}, err
	}
	defer func() { err = b.endSession(created, err) }()
	if err := b.sendContext(ctx, created.VM); err != nil {
		return api.Image{}, err
	}
	if err := b.runDocker(ctx, created.VM); err != nil {
		return api.Image{}, err
	}
	progress := b.progress(b.json)
	defer progress.Done()
	return b.client.ReceiveImage(ctx, created.VM.ID, receive, progress.Step)
}

// Where what is to be built lies in the builder, and what it is called there.
const (
	guestContext    = "/root/context"
	guestDockerfile = "/root/Dockerfile"
	guestAuth       = "/run/banger-build"
	builtTag        = "banger-build"
)

// sendContext brings all that Docker needs into the builder, but what comes as a
// stream: Docker reads that itself.
func (b imageBuild) sendContext(ctx context.Context, vm api.VM) error {
	if b.from.Stream != nil {
		return nil
	}
	progress := b.progress(b.json)
	defer progress.Done()
	if _, err := b.client.WriteFile(ctx, vm.ID, guestDockerfile, copyMode, bytes.NewReader(b.from.Dockerfile), nil); err != nil {
		return err
	}
	if b.from.Ignore != nil {
		if _, err := b.client.WriteFile(ctx, vm.ID, guestDockerfile+".dockerignore", copyMode, bytes.NewReader(b.from.Ignore), nil); err != nil {
			return err
		}
	}
	moved, err := b.client.CopySome(ctx, vm.ID, b.from.Dir, guestContext, b.from.Keep, progress.Step)
	progress.Done()
	b.sayLeftOut(moved)
	return err
}

// lookForDocker ends with 127 where there is none, and with 0 where it is one
// that has BuildKit and must be asked for it; later ones want a plugin for that.
const (
	lookForDocker = `command -v docker >/dev/null || exit 127; docker --version | grep -q ' 20\.'`
	noDocker      = 127
)

// runDocker builds what lies in the builder.
func (b imageBuild) runDocker(ctx context.Context, vm api.VM) error {
	look, err := b.runIn(ctx, vm, api.ExecRequest{Argv: []string{"sh", "-c", lookForDocker}}, nil, io.Discard)
	var told *api.Error
	if look == noDocker || errors.As(err, &told) && told.Kind == api.KindNoProgram {
		return bad("--builder takes an image with Docker in it, like debian-bookworm", "there is no Docker in image %s to build with", vm.Image)
	}
	if err != nil {
		return err
	}
	build := api.ExecRequest{Argv: b.docker(), Env: map[string]string{}}
	if look == 0 {
		build.Env["DOCKER_BUILDKIT"] = "1"
	}
	if b.auth != nil {
		if err := b.sendAuth(ctx, vm); err != nil {
			return err
		}
		build.Env["DOCKER_CONFIG"] = guestAuth
	}
	said := &words{Writer: b.words()}
	status, err := b.runIn(ctx, vm, build, b.from.Stream, said)
	if err != nil || status == 0 {
		return err
	}
	if said.unauthorized {
		fmt.Fprint(b.errs, sentence(&api.Error{
			Message: "a registry wants to know who asks",
			Hint:    "if the image is private: `docker login HOST`, and then --registry-auth HOST",
		}))
	}
	return exitStatus(exitUnfit)
}

// words are Docker's, among which are those for a registry that refuses.
type words struct {
	io.Writer
	unauthorized bool
}

// Write implements [io.Writer].
func (w *words) Write(p []byte) (int, error) {
	for _, refusal := range []string{"may require authorization", "failed to authorize", "401 Unauthorized"} {
		w.unauthorized = w.unauthorized || bytes.Contains(p, []byte(refusal))
	}
	return w.Writer.Write(p)
}

// keepAuth keeps what it reads in the builder's memory. Only Docker's client,
// which runs as root outside of all containers, reads it there, and tells
// Docker's daemon when something is pulled.
const keepAuth = `set -e; umask 077; mkdir -p ` + guestAuth + `; mount -t tmpfs -o mode=0700,size=16m banger ` + guestAuth + `; cat > ` + guestAuth + `/config.json`

// sendAuth gives Docker in the builder the credentials for registries.
func (b imageBuild) sendAuth(ctx context.Context, vm api.VM) error {
	var said strings.Builder
	status, err := b.runIn(ctx, vm, api.ExecRequest{Argv: []string{"sh", "-c", keepAuth}}, bytes.NewReader(b.auth), &said)
	if err == nil && status != 0 {
		err = &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("cannot keep the credentials in the memory of the builder: %s", strings.TrimSpace(said.String()))}
	}
	return err
}

// docker is the command line.
func (b imageBuild) docker() []string {
	argv := []string{"docker", "build", "--tag", builtTag}
	file, from := guestDockerfile, guestContext
	if b.from.Stream != nil {
		file, from = b.from.File, "-"
	}
	if file != "" {
		argv = append(argv, "--file", file)
	}
	for _, arg := range b.args {
		name, _, set := strings.Cut(arg, "=")
		if value, known := os.LookupEnv(name); !set && known {
			arg = name + "=" + value
		}
		argv = append(argv, "--build-arg", arg)
	}
	if b.target != "" {
		argv = append(argv, "--target", b.target)
	}
	if b.noCache {
		argv = append(argv, "--no-cache")
	}
	return append(argv, from)
}

// words is where Docker's words go.
func (b imageBuild) words() io.Writer {
	if b.json {
		return ui.Lines("docker", b.progress(true))
	}
	return b.errs
}

// runIn runs a command in a VM, and gives its status.
func (d *deps) runIn(ctx context.Context, vm api.VM, req api.ExecRequest, input io.Reader, said io.Writer) (int, error) {
	command, err := d.client.Exec(ctx, vm.ID, req)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	status, err := command.Run(ctx, input, said, said)
	if errors.Is(err, client.ErrLost) {
		err = d.lost(vm, begun)
	}
	return status, err
}
