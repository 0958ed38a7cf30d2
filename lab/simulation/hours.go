// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"math/rand/v2"
	"sync"
	"time"
)

// The service's day: people send photos of people in the evening, and offices those
// of buildings by day.
var (
	peopleByHour    = [24]float64{2, 1, 1, 1, 1, 1, 2, 3, 4, 5, 5, 6, 7, 6, 5, 5, 6, 7, 9, 11, 12, 11, 8, 4}
	buildingsByHour = [24]float64{0, 0, 0, 0, 0, 0, 0, 1, 3, 5, 6, 6, 4, 5, 6, 6, 5, 3, 2, 1, 1, 1, 0, 0}
)

const busiest = 13 // of an hour's people and buildings together, at 20:00

// pick chooses a photo's longer side in pixels, by what the hour brings.
func pick(random *rand.Rand, now time.Time) int {
	hour := now.Hour()
	if random.Float64()*(peopleByHour[hour]+buildingsByHour[hour]) < peopleByHour[hour] {
		return [...]int{460, 512, 680}[random.IntN(3)]
	}
	return [...]int{960, 1024, 1280}[random.IntN(3)]
}

// rate is how busy an hour is, 1 at the busiest.
func rate(now time.Time) float64 {
	return (peopleByHour[now.Hour()] + buildingsByHour[now.Hour()]) / busiest
}

// Late is a ComfyUI's delay of frames: now and then, when the server is busy, they are
// held back and come bunched (the recordings show 60 to 150 ms in one prompt of ten).
func Late(seed uint64) func() time.Duration {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 3))
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		if random.Float64() >= 0.005 {
			return 0
		}
		return time.Duration(60+random.IntN(91)) * time.Millisecond
	}
}
