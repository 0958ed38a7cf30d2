// SPDX-License-Identifier: Apache-2.0

// Package storageclient opens the storage that a component's configuration names.
package storageclient

import (
	"context"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension/xextension/storage"
)

// Open opens the storage extension id for a component; nil if id is nil. The errors name the key
// storage, the value and the remedy.
func Open(ctx context.Context, host component.Host, id *component.ID, kind component.Kind, owner component.ID) (storage.Client, error) {
	if id == nil {
		return nil, nil //nolint:nilnil // no storage is configured
	}
	extension, ok := host.GetExtensions()[*id]
	if !ok {
		return nil, fmt.Errorf("storage: %q is not a configured extension; add it to extensions and to service::extensions", id.String())
	}
	s, ok := extension.(storage.Extension)
	if !ok {
		return nil, fmt.Errorf("storage: %q is not a storage extension; use one, for example file_storage", id.String())
	}
	client, err := s.GetClient(ctx, kind, owner, "")
	if err != nil {
		return nil, fmt.Errorf("storage: open %q: %w", id.String(), err)
	}
	return client, nil
}
