// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// store holds what must survive the process: the open prompts, and in poll mode the ids
// of exported prompts. Without a storage extension it holds nothing.
type store struct {
	client storage.Client

	mu sync.Mutex
	// saved is the version of the open prompts that is stored; guarded by mu.
	saved uint64
}

const (
	openKey = "open"
	// as written by earlier versions
	exportedKey = "told"
)

func openStore(ctx context.Context, host component.Host, id *component.ID, owner component.ID) (*store, error) {
	if id == nil {
		return &store{}, nil
	}
	extension, ok := host.GetExtensions()[*id]
	if !ok {
		return nil, fmt.Errorf("storage: %q is not a configured extension; add it to extensions and to service::extensions", id.String())
	}
	s, ok := extension.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("storage: %q is not a storage extension; use one, for example file_storage", id.String())
	}
	client, err := s.GetClient(ctx, component.KindReceiver, owner, "")
	if err != nil {
		return nil, fmt.Errorf("storage: open %q: %w", id.String(), err)
	}
	return &store{client: client}, nil
}

// save stores the open prompts if they have changed.
func (s *store) save(ctx context.Context, t *prompt.Tracker) {
	if s.client == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	version := t.Version()
	if version == s.saved {
		return
	}
	if s.set(ctx, openKey, t.Save()) == nil {
		// after an error, the next call tries again
		s.saved = version
	}
}

// open are the prompts that were open when the last process ended.
func (s *store) open(ctx context.Context) (open []prompt.Saved, err error) {
	err = s.get(ctx, openKey, &open)
	return open, err
}

// exported are the ids of exported prompts, nil if none were ever stored.
func (s *store) exported(ctx context.Context) (ids []string, err error) {
	err = s.get(ctx, exportedKey, &ids)
	return ids, err
}

func (s *store) set(ctx context.Context, key string, value any) error {
	if s.client == nil {
		return nil
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return s.client.Set(ctx, key, raw)
}

func (s *store) get(ctx context.Context, key string, into any) error {
	if s.client == nil {
		return nil
	}
	raw, err := s.client.Get(ctx, key)
	if err != nil || raw == nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("the stored value is damaged: %w", err)
	}
	return nil
}

func (s *store) close(ctx context.Context) error {
	if s.client == nil {
		return nil
	}
	return s.client.Close(ctx)
}
