// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// torchLoad multiplies matrices on the first GPU until it is ended. It prints "begun"
// after the first ones.
const torchLoad = `
import torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
b = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
for _ in range(20): c = a @ b
torch.cuda.synchronize()
print("begun", flush=True)
while True:
    for _ in range(50): c = a @ b
    torch.cuda.synchronize()
`

// underLoad calls do while the first GPU is under load, which needs Python with PyTorch.
func underLoad(ctx context.Context, d time.Duration, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d+2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "python3", "-c", torchLoad)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the load: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if line, _ := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "begun" {
		last := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return errors.New("start the load with PyTorch: " + last[len(last)-1])
	}
	time.Sleep(d / 2) // averages settle
	return do()
}
