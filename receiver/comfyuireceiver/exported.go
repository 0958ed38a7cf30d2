// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const (
	// pages hold the ids of exported prompts; the oldest one is replaced.
	pageSize, pages = 256, maxExported / pageSize
	// placeKey holds the number of ids that were ever added.
	placeKey = "exported"
	// formerExportedKey holds all ids, as earlier versions wrote them.
	formerExportedKey = "told"
)

// maxPlace is more ids than are ever added.
const maxPlace = 1 << 53

func pageKey(page int) string { return "exported/" + strconv.Itoa(page) }

// addExported adds the id of an exported prompt, soon.
func (s *store) addExported(id string) {
	if s.client == nil {
		return
	}
	s.mu.Lock()
	fits := len(s.exported) < maxExported
	if fits {
		s.exported = append(s.exported, id)
	}
	closed := s.closed
	s.mu.Unlock()
	if !fits {
		s.telemetry.ReceiverComfyuiBeyondLimit.Add(context.Background(), 1, metric.WithAttributes(attribute.String("comfyui.what", "exported_id")))
	}
	s.notify(closed)
}

// addPages adds the ids to the page at a place.
func (s *store) addPages(operations *[]*storage.Operation, ids []string, place int) error {
	if len(ids) == 0 {
		return nil
	}
	key := pageKey(place / pageSize % pages)
	var page []string
	if place%pageSize > 0 {
		if err := s.get(context.Background(), key, &page); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(append(page[:min(len(page), place%pageSize)], ids...))
	if err != nil {
		return err
	}
	*operations = append(*operations, storage.SetOperation(key, raw), storage.SetOperation(placeKey, []byte(strconv.Itoa(place+len(ids)))))
	return nil
}

// exportedIDs are the ids of exported prompts, the oldest first; stored is false if none
// were ever stored.
func (s *store) exportedIDs(ctx context.Context) (ids []string, stored bool, err error) {
	if s.client == nil {
		return nil, false, nil
	}
	raw, err := s.client.Get(ctx, placeKey)
	if err != nil {
		return nil, false, err
	}
	if raw == nil {
		if err := s.get(ctx, formerExportedKey, &ids); err != nil || ids == nil {
			return nil, false, err
		}
		for _, id := range ids {
			s.addExported(id)
		}
		if !s.flush() {
			return ids, true, nil // the worker tries again, and the next process reads them here
		}
		return ids, true, s.client.Delete(ctx, formerExportedKey)
	}
	place, err := strconv.Atoi(string(raw))
	if err == nil && (place < 0 || place > maxPlace) {
		err = strconv.ErrRange
	}
	if err != nil {
		return nil, false, fmt.Errorf("the stored value is damaged: %w", err)
	}
	s.mu.Lock()
	s.place = max(s.place, place) // an id may have been added since it was read
	s.mu.Unlock()
	end := (place + pageSize - 1) / pageSize
	for page := max(0, end-pages); page < end; page++ {
		var held []string
		if err := s.get(ctx, pageKey(page%pages), &held); err != nil {
			return ids, true, err
		}
		ids = append(ids, held...)
	}
	return ids, true, nil
}

// beginExported records that the history has been read once.
func (s *store) beginExported(ctx context.Context) error {
	if s.client == nil {
		return nil
	}
	s.mu.Lock()
	place := s.place
	s.mu.Unlock()
	return s.client.Set(ctx, placeKey, []byte(strconv.Itoa(place)))
}
