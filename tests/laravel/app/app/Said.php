<?php

namespace App;

use Illuminate\Broadcasting\Channel;
use Illuminate\Contracts\Broadcasting\ShouldBroadcastNow;

/** An event for every listener. */
class Said implements ShouldBroadcastNow
{
    public function __construct(public int $n)
    {
    }

    public function broadcastOn(): Channel
    {
        return new Channel('said-'.config('queue.connections.redis.queue'));
    }
}
