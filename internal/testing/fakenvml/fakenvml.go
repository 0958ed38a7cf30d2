// SPDX-License-Identifier: Apache-2.0

// Package fakenvml builds and controls a shared library with NVML's ABI. It replaces
// NVIDIA's on machines without a GPU: in tests, and for `make run`.
// The library is loaded by the real dlopen path, so that everything above it
// (symbol lookup, cgo, error codes, threads that hang) is exercised as it is.
//
// Its state is a mapped file that several processes can share: the tests write
// it through [State] and [GPU], the library reads it.
package fakenvml

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed csrc
var sources embed.FS

// A Variant is a choice of the functions that the library exports.
type Variant string

const (
	// Current exports everything the library has.
	Current Variant = "current"
	// Driver535 lacks the functions that NVIDIA's library of driver 535 lacks.
	Driver535 Variant = "535"
	// Driver470 is the same for driver 470.
	Driver470 Variant = "470"
	// Bare exports only what is needed to initialise and to find a GPU.
	Bare Variant = "bare"
)

const bareSymbols = "nvmlInit_v2 nvmlShutdown nvmlErrorString nvmlDeviceGetCount_v2 nvmlDeviceGetHandleByIndex_v2 nvmlDeviceGetUUID otelcolGpuSimulated"

// Build compiles the library into dir with gcc against go-nvml's nvml.h and
// returns its path. It needs gcc and, for the header, the go command.
func Build(ctx context.Context, dir string, variant Variant) (string, error) {
	header, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/NVIDIA/go-nvml").Output()
	if err != nil {
		return "", fmt.Errorf("find nvml.h: go list -m github.com/NVIDIA/go-nvml: %w", err)
	}
	src, err := os.MkdirTemp(dir, "csrc-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(src)
	if err := os.CopyFS(src, sources); err != nil {
		return "", err
	}
	src = filepath.Join(src, "csrc")
	script, err := versionScript(variant)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(src, "exports.map"), []byte(script), 0o600); err != nil {
		return "", err
	}
	out := filepath.Join(dir, "libnvidia-ml-"+string(variant)+".so.1")
	built := filepath.Join(src, "built.so")
	cmd := exec.CommandContext(ctx, "gcc", "-std=gnu11", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations",
		"-I", filepath.Join(strings.TrimSpace(string(header)), "pkg", "nvml"),
		"-Wl,--version-script="+filepath.Join(src, "exports.map"),
		"-o", built, filepath.Join(src, "fakenvml.c"))
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the NVML test library: %w\n%s", err, output)
	}
	return out, os.Rename(built, out)
}

// Cached builds the library once for its sources and keeps it in the user's
// cache folder; later calls return what is there.
func Cached(ctx context.Context, variant Variant) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	err = fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := sources.ReadFile(path)
		sum.Write(raw)
		return err
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "otelcol-gpu", "fakenvml-"+hex.EncodeToString(sum.Sum(nil))[:16])
	path := filepath.Join(dir, "libnvidia-ml-"+string(variant)+".so.1")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	return Build(ctx, dir, variant)
}

// versionScript lists for the linker which functions are exported.
func versionScript(variant Variant) (string, error) {
	switch variant {
	case Current:
		return "{ global: nvml*; otelcolGpuSimulated; local: *; };\n", nil
	case Bare:
		return "{ global: " + strings.ReplaceAll(bareSymbols, " ", "; ") + "; local: *; };\n", nil
	}
	missing, err := sources.ReadFile("csrc/missing-" + string(variant) + ".txt")
	if err != nil {
		return "", fmt.Errorf("variant %q of the NVML test library: %w", variant, err)
	}
	var b strings.Builder
	b.WriteString("{ global: nvml*; otelcolGpuSimulated; local: *; ")
	for line := range bytes.Lines(missing) {
		if name := strings.TrimSpace(string(line)); name != "" && name[0] != '#' {
			b.WriteString(name + "; ")
		}
	}
	b.WriteString("};\n")
	return b.String(), nil
}
