// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// store keeps what must outlive the process: the open prompts, and in poll mode
// the prompts that were told already. Without a storage extension it keeps nothing.
type store struct {
	client storage.Client

	mu    sync.Mutex
	saved uint64 // the version of the open prompts that is kept
}

const (
	openKey = "open"
	toldKey = "told"
)

func openStore(ctx context.Context, host component.Host, id *component.ID, owner component.ID) (*store, error) {
	if id == nil {
		return &store{}, nil
	}
	extension, ok := host.GetExtensions()[*id]
	if !ok {
		return nil, fmt.Errorf("storage: there is no extension %q: add it to extensions and to service::extensions", id)
	}
	s, ok := extension.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("storage: the extension %q does not store: name one such as file_storage", id)
	}
	client, err := s.GetClient(ctx, component.KindReceiver, owner, "")
	if err != nil {
		return nil, fmt.Errorf("storage: open %q: %w", id, err)
	}
	return &store{client: client}, nil
}

// save keeps the open prompts if they are others than before.
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
	raw, err := json.Marshal(t.Known())
	if err == nil && s.client.Set(ctx, openKey, raw) == nil {
		s.saved = version // else the next look tries again
	}
}

// open are the prompts that were open when the last process ended.
func (s *store) open(ctx context.Context) (open []prompt.Saved, err error) {
	err = s.get(ctx, openKey, &open)
	return open, err
}

// told are the ids of finished prompts that were told, nil if nothing was ever kept.
func (s *store) told(ctx context.Context) (ids []string, err error) {
	err = s.get(ctx, toldKey, &ids)
	return ids, err
}

func (s *store) saveTold(ctx context.Context, ids []string) error {
	if s.client == nil {
		return nil
	}
	raw, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return s.client.Set(ctx, toldKey, raw)
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
		return errors.Join(errDamaged, err)
	}
	return nil
}

var errDamaged = errors.New("what was stored cannot be read, and is left out")

func (s *store) close(ctx context.Context) error {
	if s.client == nil {
		return nil
	}
	return s.client.Close(ctx)
}
