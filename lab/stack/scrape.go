// SPDX-License-Identifier: Apache-2.0

package stack

import (
	"fmt"
	"os"
	"time"
)

// WriteScrapeConfig writes the file with which a store scrapes the own telemetry of a
// collector of a host, at an address.
func WriteScrapeConfig(path, host, address string, interval time.Duration) error {
	return os.WriteFile(path, fmt.Appendf(nil, `scrape_configs:
  - job_name: otelcol-gpu
    scrape_interval: %s
    static_configs: [{targets: [%q], labels: {instance: %q}}]
`, interval, address, host), 0o600)
}
