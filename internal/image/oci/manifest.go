package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/banger-vm/banger/api"
)

// Bounds of what describes an image.
const (
	maxManifest = 4 << 20 // bytes, as registries bound it
	maxConfig   = 8 << 20
	maxLayers   = 512
	maxIndexes  = 4 // an index in an index in …
	maxWords    = 4096
)

// platform is what an image runs on.
type platform struct{ os, arch, variant string }

// hostPlatform is what runs in a guest on this host.
func hostPlatform() platform { return platform{os: "linux", arch: runtime.GOARCH} }

// parsePlatform reads os/arch or os/arch/variant; empty is the host's.
func parsePlatform(s string) (platform, error) {
	if s == "" {
		return hostPlatform(), nil
	}
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return platform{}, &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("%q is no platform", s), Hint: "write one like linux/amd64 or linux/arm/v7"}
	}
	return platform{parts[0], parts[1], strings.Join(parts[2:], "")}, nil
}

func (p platform) String() string {
	return strings.TrimSuffix(p.os+"/"+p.arch+"/"+p.variant, "/")
}

// fits tells whether what is offered can be used for p. Who asks for no
// variant takes any.
func (p platform) fits(offered platform) bool {
	if p.os != offered.os || p.arch != offered.arch {
		return false
	}
	return p.variant == "" || offered.variant == "" || p.variant == offered.variant
}

// choose picks the manifest for a platform from an index. Attestations and
// other things that are no images have platform unknown/unknown.
func choose(index *v1.IndexManifest, want platform) (v1.Descriptor, error) {
	var offered []string
	for _, d := range index.Manifests {
		if d.Platform == nil {
			if d.MediaType.IsImage() || d.MediaType.IsIndex() {
				return d, nil // an index that does not say; its configuration will
			}
			continue
		}
		p := platform{d.Platform.OS, d.Platform.Architecture, d.Platform.Variant}
		if want.fits(p) {
			return d, nil
		}
		if p.os != "unknown" {
			offered = append(offered, p.String())
		}
	}
	return v1.Descriptor{}, noPlatform(want, offered)
}

func noPlatform(want platform, offered []string) error {
	hint := "it is for no platform at all"
	if len(offered) > 0 {
		slices.Sort(offered)
		hint = "it is there for " + strings.Join(slices.Compact(offered), ", ")
	}
	return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("the image is not there for %s", want), Hint: hint}
}

// decode reads a manifest, an index or a configuration.
func decode(data []byte, what string, v any) error {
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(v); err != nil {
		return badImage("its %s can't be read: %v", what, err)
	}
	return nil
}

// checkManifest refuses what is no image that banger can lay down.
func checkManifest(m *v1.Manifest) error {
	if !isConfig(m.Config.MediaType) {
		return badImage("it is no container image: its configuration is %.100q", m.Config.MediaType)
	}
	if len(m.Layers) > maxLayers {
		return badImage("it has %d layers; %d is the most", len(m.Layers), maxLayers)
	}
	if m.Config.Size < 0 || m.Config.Size > maxConfig {
		return badImage("its configuration has %d bytes; %d is the most", m.Config.Size, maxConfig)
	}
	for _, l := range m.Layers {
		if !isLayer(l.MediaType) {
			return badImage("it has a layer of a type that banger does not know: %.100q", l.MediaType)
		}
		if l.Size < 0 {
			return badImage("it has a layer of a negative size")
		}
	}
	return nil
}

func isConfig(t types.MediaType) bool {
	return t == types.OCIConfigJSON || t == types.DockerConfigJSON || t == ""
}

func isLayer(t types.MediaType) bool {
	switch t {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer,
		types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer, types.DockerForeignLayer, dockerZstd:
		return true
	}
	return false
}

// dockerZstd is a type that some builders write.
const dockerZstd types.MediaType = "application/vnd.docker.image.rootfs.diff.tar.zstd"

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// checkDigest allows what can be a file's name.
func checkDigest(d string) error {
	if !digestForm.MatchString(d) {
		return badImage("%.100q is no SHA-256 digest", d)
	}
	return nil
}

// describe fills an image from its configuration. layers are in the order of
// the manifest.
func describe(data []byte, want platform, layers []Layer) (*Image, error) {
	var config v1.ConfigFile
	if err := decode(data, "configuration", &config); err != nil {
		return nil, err
	}
	offered := platform{config.OS, config.Architecture, config.Variant}
	if config.Architecture != "" && !want.fits(offered) {
		return nil, noPlatform(want, []string{offered.String()})
	}
	if len(config.RootFS.DiffIDs) != len(layers) {
		return nil, badImage("it has %d layers, and its configuration names %d", len(layers), len(config.RootFS.DiffIDs))
	}
	for i, id := range config.RootFS.DiffIDs {
		if err := checkDigest(id.String()); err != nil {
			return nil, err
		}
		layers[i].DiffID = id.String()
	}
	c := config.Config
	if len(c.Env)+len(c.Entrypoint)+len(c.Cmd) > maxWords {
		return nil, badImage("its configuration has more than %d words", maxWords)
	}
	return &Image{
		Platform: want.String(), Created: config.Created.Time, Layers: layers,
		Config: Config{Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, Entrypoint: c.Entrypoint, Cmd: c.Cmd},
	}, nil
}
