<?php

namespace App;

use Illuminate\Contracts\Queue\ShouldBeUnique;

/** A job that is queued once while it waits, however often it is dispatched. */
class OnlyOnce extends Work implements ShouldBeUnique
{
    public int $uniqueFor = 600;

    public function uniqueId(): string
    {
        return $this->id;
    }
}
