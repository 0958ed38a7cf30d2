// SPDX-License-Identifier: Apache-2.0

package state

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
)

// GPUs are the GPUs as an advisor needs to know them.
func (st *Store) GPUs() []advice.GPU {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.catchUp()
	now := st.settings.Now()
	all := st.machine.GPUs()
	gpus := make([]advice.GPU, 0, len(all))
	for _, g := range all {
		gpus = append(gpus, st.machine.Advice(g, now))
	}
	return gpus
}
