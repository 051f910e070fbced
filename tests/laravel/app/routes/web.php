<?php
/** The guide's health check as it stands there, and a page: session, cache, a counter, and a job for each visit. */

use App\Work;
use Illuminate\Support\Facades\Cache;
use Illuminate\Support\Facades\Queue;
use Illuminate\Support\Facades\Redis;
use Illuminate\Support\Facades\Route;

Route::get('/health', function () {
    try {
        // Check Redis connection
        Redis::connection()->client()->ping();
        // Check a simple cache entry
        Cache::put('health_check', true, 1);
        if (Cache::get('health_check')) {
            return response()->json(['status' => 'ok', 'message' => 'Application is healthy and Redis is accessible.']);
        } else {
            return response()->json(['status' => 'error', 'message' => 'Application is healthy, but cache is not working correctly.'], 500);
        }
    } catch (\Exception $e) {
        return response()->json(['status' => 'error', 'message' => 'Failed to connect to Redis: ' . $e->getMessage()], 500);
    }
})->withoutMiddleware('web');

Route::get('/page/{id}', function (string $id) {
    session(['visits' => session('visits', 0) + 1]);
    $page = Cache::remember("page:$id", 600, fn () => "page $id");
    Cache::increment('visits');
    Queue::push(new Work($id));

    return response($page, 200, ['Content-Type' => 'text/plain']);
});

Route::get('/static', fn () => 'no Redis')->withoutMiddleware('web');
