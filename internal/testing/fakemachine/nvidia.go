// SPDX-License-Identifier: Apache-2.0

package fakemachine

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// NvidiaLibrary is the path of NVIDIA's own library of a driver, 535 or 470,
// fetched if need be. Where it cannot be had the test is skipped loudly; in CI
// that fails.
func NvidiaLibrary(t testing.TB, driver string) string {
	t.Helper()
	root, err := figure.Root()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(root, ".cache", "nvidia")
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "scripts", "fetch-nvidia-libs.sh"), folder).CombinedOutput()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("NVIDIA's libraries cannot be had: %v\n%s", err, out)
		}
		t.Skipf("SKIPPED, NOT TESTED: NVIDIA'S OWN LIBRARIES CANNOT BE HAD HERE: %v\n%s", err, out)
	}
	return filepath.Join(folder, driver, "libnvidia-ml.so.1")
}
