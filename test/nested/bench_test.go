//go:build nested

package nested

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// benchTimeout is for all of a benchmark after the machine's boot.
const benchTimeout = time.Hour

// BenchmarkFirecracker compares, on the real firecracker, banger with
// firecracker alone and with microsandbox, in one machine and in turns, and
// prints the ratios. One call is one whole comparison.
func BenchmarkFirecracker(b *testing.B) {
	k := pack(b)
	k.addMicrosandbox(b)
	k.files["measure"] = filepath.Join(b.TempDir(), "measure")
	goBuild(b, "build", "-trimpath", "-ldflags=-s -w", "-o", k.files["measure"], "./test/nested/measure")
	p := somewhere(b, k)
	prepare(b, p, k)
	for range b.N {
		times := measure(b, p, k)
		printRatios(b, os.Stdout, times)
	}
}

// addMicrosandbox adds its program and its library from its wheel.
func (k *kit) addMicrosandbox(t testing.TB) {
	t.Helper()
	wheel, err := exec.Command(filepath.Join(root, "scripts/fetch-microsandbox.sh")).Output()
	if err != nil {
		t.Fatalf("cannot get microsandbox: %v\n%s", err, err.(*exec.ExitError).Stderr)
	}
	dir := t.TempDir()
	unpack := exec.Command("python3", "-m", "zipfile", "-e", strings.TrimSpace(string(wheel)), dir)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("cannot unpack microsandbox: %v\n%s", err, out)
	}
	bundle := filepath.Join(dir, "microsandbox/_bundled")
	if err := os.Chmod(filepath.Join(bundle, "bin/msb"), 0o755); err != nil {
		t.Fatal(err)
	}
	k.addTree(t, "msb", bundle)
}

// prepare gives microsandbox the same image, as docker save writes it, and
// firecracker alone a tap.
func prepare(b *testing.B, p place, k *kit) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), benchTimeout)
	defer cancel()
	var out bytes.Buffer
	status, err := p.run(ctx, &out, job{argv: []string{"sh", "-euc", prepareScript}, env: benchEnvironment(p, k)})
	if err != nil || status != 0 {
		b.Fatalf("cannot prepare the machine: status %d, %v\n%s\n%s", status, err, out.String(), p.why())
	}
}

const prepareScript = `
ip link set lo up
ip tuntap add bare0 mode tap
ip link set bare0 up
mkdir -p -m 700 "$XDG_RUNTIME_DIR"
mkdir -p /var/tmp/layer/upper /var/tmp/layer/work
mount -t overlay -o "lowerdir=$XDG_DATA_HOME/banger,upperdir=/var/tmp/layer/upper,workdir=/var/tmp/layer/work" store "$XDG_DATA_HOME/banger"
mkdir -p /var/tmp/image/root /var/tmp/image/save
cd /var/tmp/image
mount -o ro,loop,noload "$ROOTFS" root
tar -C root --one-file-system -cf save/layer.tar .
umount root
sum=$(sha256sum save/layer.tar | cut -d' ' -f1)
cat >save/config.json <<EOF
{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:$sum"]}}
EOF
echo '[{"Config":"config.json","RepoTags":["bench:latest"],"Layers":["layer.tar"]}]' >save/manifest.json
tar -C save -cf image.tar manifest.json config.json layer.tar
rm -r save
"$MSB" load --quiet -i image.tar
rm image.tar
`

func benchEnvironment(p place, k *kit) map[string]string {
	env := environment(p, k)
	env["PATH"] = filepath.Join(p.kit(), "build/bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	env["HOME"] = "/root"
	env["XDG_DATA_HOME"] = p.data()
	env["XDG_RUNTIME_DIR"] = "/run/bench"
	env["MSB"] = k.in(p, "msb/bin/msb")
	env["ROOTFS"] = filepath.Join(p.data(), "banger/images", imageName, "rootfs.ext4")
	return env
}

// defaultDisk is the disk that banger gives a VM.
const defaultDisk = 20 << 30

func measure(b *testing.B, p place, k *kit) map[string][]float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), benchTimeout)
	defer cancel()
	env := benchEnvironment(p, k)
	argv := []string{
		k.in(p, "measure"), "-firecracker", env["FIRECRACKER_BIN"], "-kernel", env["BANGER_TEST_KERNEL"], "-initramfs", env["BANGER_TEST_INITRAMFS"], "-rootfs", env["ROOTFS"],
		"-args", bootArgs(defaultDisk), "-disk", fmt.Sprint(int64(defaultDisk)), "-msb", env["MSB"], "-image", "bench:latest",
	}
	var out bytes.Buffer
	status, err := p.run(ctx, io.MultiWriter(&out, os.Stderr), job{argv: argv, env: env})
	if err != nil || status != 0 {
		b.Fatalf("cannot measure: status %d, %v\n%s", status, err, p.why())
	}
	text := strings.TrimSpace(out.String())
	var times map[string][]float64
	if err := json.Unmarshal([]byte(text[strings.LastIndex(text, "\n")+1:]), &times); err != nil {
		b.Fatalf("cannot read the measurements: %v", err)
	}
	return times
}

// ratio is a figure that the project promises.
type ratio struct {
	what, of, to string
	limit        float64
}

var ratios = []ratio{
	{"cold start, to firecracker alone", "cold banger", "cold firecracker", 1.25},
	{"cold start, to msb run", "cold banger", "cold msb", 0.9},
	{"vm exec, to msb exec", "exec banger", "exec msb", 0.25},
}

func printRatios(b *testing.B, w io.Writer, times map[string][]float64) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "on the real firecracker\tbanger\tother\tratio\tlimit\t")
	for _, r := range ratios {
		of, to := median(times[r.of]), median(times[r.to])
		verdict := ""
		if of/to > r.limit {
			verdict = "OVER"
		}
		fmt.Fprintf(table, "%s\t%.2f s\t%.2f s\t%.2f\t%.2f\t%s\n", r.what, of, to, of/to, r.limit, verdict)
		b.ReportMetric(of/to, strings.ReplaceAll(r.of+"/"+r.to, " ", "-"))
	}
	table.Flush()
}

func median(times []float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}
